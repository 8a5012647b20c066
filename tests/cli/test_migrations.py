"""`flask db`: migrations keep the data of the version before, the check compares models, and nothing is generated."""

import hashlib
import hmac
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from flask import Flask
from flask_migrate import upgrade

from saas_api import cli
from saas_api.accounts import audit_chain
from saas_api.app import create_app
from saas_api.billing import pauses
from saas_api.core import crypto
from saas_api.core.db import tenancy
from saas_api.core.db.engine import db
from saas_api.webhooks import secrets

ROOT = Path(__file__).resolve().parents[2]
OWNER_URL = "DATABASE_OWNER_URL"
VERSIONS = ROOT / "migrations" / "versions"


@pytest.fixture
def undeclared_table() -> Iterator[None]:
    """A model's table that no migration creates."""
    table = sa.Table("table_without_migration", db.metadata, sa.Column("id", sa.Integer, primary_key=True))
    yield
    db.metadata.remove(table)


def test_check_of_a_migrated_database_finds_no_difference(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """O2: `flask db check` wanted to remove the ledger."""
    result = app.test_cli_runner().invoke(args=["db", "check"])
    assert (result.exit_code, caplog.text) == (0, "")


def test_check_names_a_table_that_no_migration_creates(
    app: Flask, undeclared_table: None, caplog: pytest.LogCaptureFixture
) -> None:
    result = app.test_cli_runner().invoke(args=["db", "check"])
    assert result.exit_code == 1
    assert "table_without_migration" in caplog.text


@pytest.mark.parametrize("arguments", [["migrate"], ["revision", "--autogenerate"]])
def test_autogenerate_is_refused_with_the_command_to_use_instead(
    app: Flask, caplog: pytest.LogCaptureFixture, arguments: list[str]
) -> None:
    files = sorted(VERSIONS.glob("*.py"))
    result = app.test_cli_runner().invoke(args=["db", *arguments])
    assert result.exit_code == 1
    assert "Create an empty one with flask db revision" in caplog.text
    assert sorted(VERSIONS.glob("*.py")) == files


ACME, ENDPOINT, SECRET = (UUID(f"00000000-0000-7000-8000-00000000000{digit}") for digit in "abc")
STORED_BEFORE = """
INSERT INTO organizations (id, name, slug, status) VALUES (:acme, 'Acme', 'acme', 'suspended');
INSERT INTO webhook_endpoints (organization_id, id, url) VALUES (:acme, :endpoint, 'https://hooks.example/x');
INSERT INTO webhook_secrets (organization_id, id, endpoint_id, secret_encrypted)
VALUES (:acme, :secret, :endpoint, :webhook_secret);
INSERT INTO idempotency_keys (organization_id, key, fingerprint, status, body, is_encrypted, expires_at)
VALUES (:acme, 'order-1', 'f', 201, :response, true, now() + interval '1 hour');
INSERT INTO audit_events (organization_id, actor_type, action, target_type, target_id, data, at)
SELECT :acme, 'system', 'job.ran', 'job', number::text, '{"slot": 1.50}', now() FROM generate_series(1, 3) number
"""


@pytest.fixture
def old_database(config: dict[str, Any], superuser: Any) -> Iterator[Flask]:
    """An application on a database of revision 0009."""
    superuser.rollback()
    superuser.autocommit = True
    with superuser.cursor() as cursor:
        cursor.execute("CREATE DATABASE of_version_before OWNER saas")
    urls = {name: sa.make_url(config[name]).set(database="of_version_before") for name in ("DATABASE_URL", OWNER_URL)}
    application = create_app({**config, **urls})
    cli.init_app(application)
    with application.app_context():
        upgrade(revision="0009")
        yield application
        db.engine.dispose()
    with superuser.cursor() as cursor:
        cursor.execute("DROP DATABASE of_version_before WITH (FORCE)")
    superuser.autocommit = False


def encrypt_as_before(config: dict[str, Any], purpose: str, plain: bytes) -> bytes:
    key = hmac.new(config["SECRET_KEY"].encode(), b"encrypt\0" + purpose.encode(), hashlib.sha256).digest()
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, plain, purpose.encode())


def test_data_of_the_version_before_are_kept_and_completed(old_database: Flask, config: dict[str, Any]) -> None:
    """R6, B15: the audit log is chained in the order of its ids, secrets decrypt, and a suspension becomes a pause."""
    values = {
        "acme": ACME,
        "endpoint": ENDPOINT,
        "secret": SECRET,
        "webhook_secret": encrypt_as_before(config, "webhook_secret", b"whsec_before"),
        "response": encrypt_as_before(config, "idempotency", b'{"key": "sk_live_x"}'),
    }
    owner = sa.create_engine(old_database.config[OWNER_URL], poolclass=sa.NullPool)
    with owner.begin() as connection:
        connection.execute(sa.text("SET LOCAL ROLE saas_system"))
        for statement in STORED_BEFORE.split(";"):
            connection.execute(sa.text(statement), values)
    upgrade()
    with tenancy.system_session("audit.command") as session:
        report = audit_chain.verify_chain(session)
        stored = session.scalar(sa.text("SELECT body FROM idempotency_keys"))
    assert (report.events, report.problem) == (3, None)
    with tenancy.tenant_session(ACME) as session:
        assert secrets.list_active_secrets(session, ACME, ENDPOINT) == ["whsec_before"]
        assert [pause.ends_at for pause in pauses.list_pauses(session, ACME)] == [None]
    assert crypto.decrypt("idempotency", bytes(stored), row_id=f"{ACME}:order-1") == b'{"key": "sk_live_x"}'


ADDRESSES_BEFORE = """
INSERT INTO users (id, email, password_hash) VALUES (:alice, :email, 'x'), (:bob, :other_email, 'x');
INSERT INTO organizations (id, name, slug, billing_email) VALUES (:acme, 'Acme', 'acme', 'Bills@Acme.example');
INSERT INTO memberships (organization_id, user_id, role) VALUES (:acme, :alice, 'owner');
INSERT INTO invitations (organization_id, email, role, digest, invited_by, expires_at, created_at)
VALUES (:acme, 'I\u0307@x.example', 'admin', 'older', :alice, now(), now() - interval '1 h'),
  (:acme, '\u0130@x.example', 'admin', 'newer', :alice, now(), now())
"""


def insert_addresses(application: Flask, email: str, other_email: str) -> None:
    """Insert two users, and two open invitations that are for the same address."""
    alice, bob = (UUID(f"00000000-0000-7000-8000-00000000000{digit}") for digit in "de")
    values = {"acme": ACME, "alice": alice, "bob": bob, "email": email, "other_email": other_email}
    owner = sa.create_engine(application.config[OWNER_URL], poolclass=sa.NullPool)
    with owner.begin() as connection:
        connection.execute(sa.text("SET LOCAL ROLE saas_system"))
        for statement in ADDRESSES_BEFORE.split(";"):
            connection.execute(sa.text(statement), values)


def test_stored_addresses_get_one_form(old_database: Flask) -> None:
    """A8: an account with a capital dotted I could not sign in; of two invitations of one address the newer stays."""
    insert_addresses(old_database, "\u0130pek@Acme.example", "bob@acme.example")
    upgrade()
    with tenancy.system_session("auth.account") as session:
        emails = session.scalars(sa.text("SELECT email FROM users ORDER BY id")).all()
        billing_email = session.scalar(sa.text("SELECT billing_email FROM organizations"))
        invitations = session.execute(sa.text("SELECT email, digest FROM invitations WHERE revoked_at IS NULL")).all()
    assert (emails, billing_email) == (["i\u0307pek@acme.example", "bob@acme.example"], "bills@acme.example")
    assert [(row.email, bytes(row.digest)) for row in invitations] == [("i\u0307@x.example", b"newer")]


def test_accounts_with_the_same_address_stop_the_migration(
    old_database: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    insert_addresses(old_database, "\u0130@acme.example", "I\u0307@acme.example")
    with pytest.raises(SystemExit):
        upgrade()
    assert "same address except for case" in caplog.text
