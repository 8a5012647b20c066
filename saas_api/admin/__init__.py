"""The operator console: it reads across organizations and writes through the services of the rooms."""
