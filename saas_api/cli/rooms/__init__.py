"""Commands about what the rooms hold."""
