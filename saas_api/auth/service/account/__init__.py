"""What people do to their own account besides passwords, and when they were last here."""
