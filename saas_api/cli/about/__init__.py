"""Commands about the product itself: whether it is well, and what its command line offers."""
