"""What `make run` is: the embedded engines and the processes beside them."""

from saas_api.cli.dev.up import group

__all__ = ["group"]
