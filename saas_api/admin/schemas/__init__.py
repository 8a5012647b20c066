"""What the pages of the operator console are asked and sent."""
