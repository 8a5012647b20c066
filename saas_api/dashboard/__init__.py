"""Pages of an organization, one module per section."""
