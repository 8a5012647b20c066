"""`flask dev`: the whole product, or its engines alone, on this machine."""
