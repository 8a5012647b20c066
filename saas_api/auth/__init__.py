"""Sign-up, sign-in, sessions and their tokens."""
