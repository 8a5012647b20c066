"""Docstring and the three public names."""
