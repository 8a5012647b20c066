"""Reads of organizations and of people, across tenants."""
