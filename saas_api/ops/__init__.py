"""What those who run the product ask it."""
