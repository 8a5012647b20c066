"""Plans, periods, rating and invoices."""
