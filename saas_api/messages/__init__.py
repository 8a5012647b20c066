"""The built-in metered service: mock SMS and e-mail."""
