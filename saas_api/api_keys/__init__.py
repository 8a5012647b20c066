"""API keys: made, shown once, found by digest, revoked."""
