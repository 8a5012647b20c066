"""Commands about plans, invoices and what is owed."""
