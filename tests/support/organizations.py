"""An organization that signed up through HTTP; the helpers of each package extend it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.support.accounts import User


@dataclass
class Organization:
    """An organization, its owner, and the client that calls the API."""

    client: FlaskClient
    owner: User

    @property
    def app(self) -> Flask:
        return self.client.application

    @property
    def id(self) -> UUID:
        return ids.parse_id("org", self.owner.organization_id)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A tenant transaction, in an application context of its own."""
        with self.app.app_context(), tenancy.tenant_session(self.id) as session:
            yield session

    def rows(self, sql: str) -> list[Any]:
        """Rows that the tenant role of this organization reads."""
        with self.transaction() as session:
            return list(session.execute(text(sql)).all())

    def execute(self, sql: str, **values: Any) -> None:
        """Execute a statement with the tenant role of this organization."""
        with self.transaction() as session:
            session.execute(text(sql), values)
