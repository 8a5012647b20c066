"""The dashboard: what an organization sees of its own usage at a glance."""
