"""Events of an organization, and the webhooks that carry them to its endpoints."""
