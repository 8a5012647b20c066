"""Keys of the tables of organizations: which lead with the organization, and which are of the whole platform."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.architecture.source import ROOT

PLATFORM_KEYS = {
    "api_key_secrets_digest_key": "a request has a key and no organization; the digest leads to it",
    "api_keys_id": "a service names a key without its organization",
    "audit_events_pkey": "events of the platform have no organization",
    "credit_notes_number_key": "one seller numbers the credit notes of all organizations",
    "credit_notes_series_serial_key": "the same, without gaps",
    "holds_id_key": "a service names a hold without its organization",
    "invitations_digest_key": "a link has a token and no organization",
    "invoices_number_key": "one seller numbers the invoices of all organizations",
    "invoices_series_serial_key": "the same, without gaps",
    "mails_pkey": "mails to users have no organization",
    "organizations_external_id_key": "a service names an organization by its own id",
    "organizations_pkey": "it is the organization's id",
    "organizations_slug_key": "a name in addresses is taken once",
    "payment_methods_setup": "an event of a provider names a page without its organization, and saves one method",
    "payments_reference": "an event of a provider names a payment without its organization, and pays once",
}
"""Unique keys without the organization, with the reason."""
# Tables of the platform, which have the same rows for all organizations.
SHARED = {"meters", "plan_versions", "users"}
_TENANT_TABLES = """SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
  AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND (c.relname = 'organizations' OR EXISTS (
    SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'organization_id' AND NOT a.attisdropped))"""
_UNIQUE_KEYS = f"""SELECT i.indexrelid::regclass::text, a.attname FROM pg_index i
  JOIN pg_attribute a ON a.attrelid = i.indexrelid AND a.attnum = 1
 WHERE i.indrelid IN ({_TENANT_TABLES}) AND (i.indisunique OR i.indisexclusion)"""
_FOREIGN_KEYS = f"""SELECT f.conname, a.attname, f.confrelid IN ({_TENANT_TABLES}), f.confrelid::regclass::text
  FROM pg_constraint f JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1]
 WHERE f.contype = 'f' AND f.conrelid IN ({_TENANT_TABLES})"""


@pytest.fixture
def cursor(superuser: Any) -> Iterator[Any]:
    with superuser.cursor() as cursor:
        yield cursor
    superuser.rollback()


def test_unique_keys_lead_with_the_organization_or_are_of_the_platform(cursor: Any) -> None:
    cursor.execute(_UNIQUE_KEYS)
    assert {name for name, leading in cursor.fetchall() if leading != "organization_id"} == set(PLATFORM_KEYS)


def test_foreign_keys_lead_with_the_organization_or_refer_to_a_shared_table(cursor: Any) -> None:
    cursor.execute(_FOREIGN_KEYS)
    keys = cursor.fetchall()
    assert [name for name, leading, is_of_tenants, _ in keys if is_of_tenants and leading != "organization_id"] == []
    assert {table for _, _, is_of_tenants, table in keys if not is_of_tenants} == SHARED


def test_deployment_page_names_every_key_of_the_platform() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    section = page.partition("## Citus")[2].partition("\n## ")[0]
    assert [name for name in (*PLATFORM_KEYS, *SHARED) if f"`{name}`" not in section] == []
