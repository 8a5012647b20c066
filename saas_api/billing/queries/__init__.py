"""Reads of billing: the catalogue, what a bill depends on, invoices, and the usage report."""
