"""Rate limits and quota counters in Redis."""
