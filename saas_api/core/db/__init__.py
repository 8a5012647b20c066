"""PostgreSQL: engine and sessions, tenancy, pagination."""
