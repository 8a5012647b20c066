"""Who acts, and the transaction they act in; what they do to an organization is in its log and in their own."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from saas_api.core.access import Principal
from saas_api.core.tenancy import as_system
from saas_api.organizations.service import audit


def operator(principal: Principal) -> audit.Actor:
    """The operator who acts, as the log names them."""
    return audit.Actor("operator", str(principal.id))


@contextmanager
def acting() -> Iterator[Session]:
    """One transaction of the system in which an operator changes something; commits at the end."""
    with as_system("admin.act") as session:
        yield session
