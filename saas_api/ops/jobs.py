"""Timed work of the house itself."""

from saas_api.ops import service as ops


def purge() -> dict[str, int]:
    """Clear away what nobody asks for any more; daily."""
    return ops.purge()
