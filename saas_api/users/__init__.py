"""People: one row a person, whichever organizations they belong to."""
