"""Commands of the `flask` command, one module for each noun."""
