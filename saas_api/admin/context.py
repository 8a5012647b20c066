"""Read_session, write_session, current_operator, ReasonForm."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import marshmallow as ma
from flask import g
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts.audit import Actor, OperatorContext
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.core.fields import StrictSchema, Text

_ONLY_READ = text("SELECT set_config('transaction_read_only', 'on', true)")


@contextmanager
def read_session() -> Iterator[Session]:
    """One read-only transaction of the system, across organizations."""
    with tenancy.system_session("admin.read") as session:
        session.execute(_ONLY_READ)
        yield session


class ReasonField(Text):
    """Why an operator does it, in at least ten characters."""

    def __init__(self) -> None:
        super().__init__(minimum=10, maximum=500, multiline=True, required=True)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        return super()._deserialize(value, attr, data, **options).strip()

    def _validate(self, value: str) -> None:
        if len(value) < 10:
            raise ma.ValidationError("Say why, in at least 10 characters.")
        super()._validate(value)


class ReasonForm(StrictSchema):
    """Why an operator does it; for the log of acts."""

    reason = ReasonField()


def current_operator(principal: Principal) -> Actor:
    """The operator who acts, as the log names them."""
    return Actor("operator", str(principal.id))


@contextmanager
def write_session() -> Iterator[Session]:
    """One transaction of the system in which an operator changes something; commits at the end."""
    with tenancy.system_session("admin.act") as session:
        yield session


def operator_context(body: dict[str, str]) -> OperatorContext:
    return OperatorContext(current_operator(g.principal), body["reason"])
