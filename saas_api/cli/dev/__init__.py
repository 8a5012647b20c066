"""What `make run` is: the embedded engines and the processes beside them."""
