"""What is true of payments without looking anything up."""
