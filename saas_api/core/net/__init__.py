"""Outgoing HTTP requests to URLs that users name."""
