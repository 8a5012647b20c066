"""Pure calculation of bills: no database, no clock, no settings."""
