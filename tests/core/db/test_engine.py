"""Batches of statements on the autocommit pool."""

from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import IntegrityError

from saas_api.core import ids
from saas_api.core.db import engine, tenancy

INSERT = "INSERT INTO organizations (id, name, slug) VALUES (%(id)s, 'acme', 'acme')"


def count_organizations() -> int:
    with tenancy.system_session("demo.seed") as session:
        return int(session.scalar(sa.text("SELECT count(*) FROM organizations")) or 0)


def test_batch_is_sent_again_when_its_connection_is_broken(context: Flask, superuser: Any) -> None:
    backend = int(engine.execute_batch([("SELECT pg_backend_pid()", {})])[0][0])
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,))
    assert int(engine.execute_batch([("SELECT pg_backend_pid()", {})])[0][0]) != backend


def test_failing_statement_rolls_its_batch_back(context: Flask) -> None:
    scope = tenancy.system_scope_statement("demo.seed")
    with pytest.raises(IntegrityError):
        engine.execute_batch([scope, (INSERT, {"id": ids.new_id()}), (INSERT, {})])
    assert count_organizations() == 0
    engine.execute_batch([scope, (INSERT, {"id": ids.new_id()})])
    assert count_organizations() == 1
