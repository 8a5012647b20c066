"""Wire shapes of billing, a file for each of its doors."""
