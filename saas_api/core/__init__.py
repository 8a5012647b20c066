"""What every package stands on: web, jobs, database, limits, network. It names no domain."""
