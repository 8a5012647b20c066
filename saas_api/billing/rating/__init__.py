"""Docstring: pure calculation of bills."""
