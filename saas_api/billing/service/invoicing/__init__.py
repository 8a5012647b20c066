"""From a period that has ended to an invoice, and what happens to the invoice afterwards."""
