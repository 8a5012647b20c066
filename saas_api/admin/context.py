"""Sessions across organizations, the acting operator, and the reason and preview of an action."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from types import SimpleNamespace
from typing import Any, TypeVar

import marshmallow as ma
from sqlalchemy import text

from saas_api.accounts.audit import Actor, OperatorContext
from saas_api.core.access import Principal
from saas_api.core.db import cells, tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.fields import StrictSchema, Text

Found = TypeVar("Found")

MIN_REASON_LENGTH = 10
_SET_READ_ONLY = text("SELECT set_config('transaction_read_only', 'on', true)")


class ReasonField(Text):
    """The reason of an action: 10 to 500 characters without the blanks around it."""

    def __init__(self) -> None:
        super().__init__(minimum=MIN_REASON_LENGTH, maximum=500, multiline=True, required=True)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        return super()._deserialize(value, attr, data, **options).strip()

    def _validate(self, value: str) -> None:
        if len(value) < MIN_REASON_LENGTH:
            raise ma.ValidationError("Enter a reason of at least 10 characters.")
        super()._validate(value)


class ReasonForm(StrictSchema):
    """Form of an action: the reason, which the audit log keeps."""

    reason = ReasonField()


@dataclass(frozen=True)
class Preview:
    """What the page of an action shows before it is confirmed.

    data: for the action's block of the template
    values: first values of the form
    is_ready: whether the action can be confirmed; without it the page has no form
    """

    data: Any = None
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    is_ready: bool = True


@contextmanager
def read_session() -> Iterator[SystemSession]:
    """Open a read-only transaction that sees every organization; at home also what is there of those in other cells."""
    with tenancy.system_session("admin.read", sees_absent=cells.current() is None) as session:
        session.execute(_SET_READ_ONLY)
        yield session


def read_each_cell(read: Callable[[SystemSession], Found]) -> tuple[list[Found], list[str]]:
    """What a function reads in each cell that responds, home first, and the names of the cells that do not.

    An organization is seen in its own cell alone, so that sums count it once, and in none while it is being moved.
    raises: DBAPIError when home does not respond
    """

    def read_cell() -> Found:
        with tenancy.system_session("admin.read") as session:
            session.execute(_SET_READ_ONLY)
            return read(session)

    return cells.collect(read_cell)


def add_up(parts: Sequence[Sequence[Any]], *key: str) -> Sequence[Any]:
    """Add up the rows of several cells that have the same key; sorted by the key where there are several cells.

    key: names of the columns that are not added up
    """
    if len(parts) == 1:
        return parts[0]
    totals: dict[tuple[Any, ...], Counter[str]] = {}
    for row in chain.from_iterable(parts):
        amounts = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
        values = tuple(amounts.pop(name) for name in key)
        totals.setdefault(values, Counter()).update(amounts)
    return [SimpleNamespace(**dict(zip(key, values, strict=True)), **totals[values]) for values in sorted(totals)]


@contextmanager
def write_session() -> Iterator[SystemSession]:
    """Open a transaction that sees every organization, for an action of an operator; commits at the end."""
    with tenancy.system_session("admin.act") as session:
        yield session


def in_write_session(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make the function of an action from one that takes a session, the key of its subject and the operator."""

    def run(operator: OperatorContext, *key: Any, **values: Any) -> Any:
        with write_session() as session:
            return function(session, *key, operator, **values)

    return run


def with_actor_and_reason(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make the function of an action from one that takes the key of its subject, the actor and the reason."""

    def run(operator: OperatorContext, *key: Any) -> Any:
        return function(*key, operator.actor, operator.reason)

    return run


def current_operator(principal: Principal) -> Actor:
    """The operator as the audit log names them."""
    return Actor("operator", str(principal.id))
