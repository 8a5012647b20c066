"""What billing computes: values in, values out."""
