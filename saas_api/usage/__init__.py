"""Usage: the ledger of metered calls, its rollups, and counts of refused calls."""
