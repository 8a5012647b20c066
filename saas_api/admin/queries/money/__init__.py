"""Reads of periods, invoices and payments across tenants."""
