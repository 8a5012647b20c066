"""Declaration of settings; imports nothing else of the product."""
