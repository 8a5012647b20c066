"""Reads of the operator console."""
