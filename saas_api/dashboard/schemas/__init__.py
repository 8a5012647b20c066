"""Shapes of the dashboard: its JSON, and the forms and filters of its pages, a file a section."""
