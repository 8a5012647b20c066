"""What the product costs: measured, printed and kept; nothing in the tests asserts a duration."""
