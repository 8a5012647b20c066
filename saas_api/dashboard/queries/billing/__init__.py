"""Reads of the billing pages."""
