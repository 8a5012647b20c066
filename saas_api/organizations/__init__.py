"""Organizations and who belongs to them; the generation that makes every change act at once."""
