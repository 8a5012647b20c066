"""Reads of what runs beneath the product: deliveries, jobs, mails, engines."""
