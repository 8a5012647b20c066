"""Reads of the dashboard, a file a section."""
