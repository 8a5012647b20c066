"""The ground floor: what every room stands on; it knows none of them."""
