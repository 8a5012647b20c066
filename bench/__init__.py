"""Measurements of the product: run, printed and stored. No test asserts a duration."""
