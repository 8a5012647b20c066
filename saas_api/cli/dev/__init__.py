"""The embedded engines and the processes of `make run`."""
