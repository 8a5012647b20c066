"""The spend cap, what the gate counts against it, and alerts."""
