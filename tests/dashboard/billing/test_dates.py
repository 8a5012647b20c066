"""An invoice names one due date in mails, PDF, pages and files: the day in the zone of its period."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.models import Organization
from saas_api.billing import invoice_documents, period_close
from saas_api.core import clock, formatting, ids
from saas_api.core.db import tenancy
from saas_api.payments import dunning
from tests.support.accounts import sign_in
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_pages import BILLING, browse, page_text

OWNER = ("alice@acme.example", "correct horse battery")


@dataclass
class DatedInvoice:
    """An invoice of April that is due on different days in UTC and in its zone.

    due: the day in the zone
    due_time: the instant in files
    """

    organization: BillingOrganization
    due: str
    due_time: str

    def mail_texts(self) -> list[str]:
        with tenancy.system_session("mail.deliver") as session:
            texts = "SELECT text_body FROM mails WHERE organization_id = :id AND text_body LIKE '%due: %' ORDER BY id"
            return list(session.scalars(sa.text(texts), {"id": self.organization.id}))


@pytest.fixture(
    params=[
        ("Pacific/Kiritimati", day(1, 15, month=5), ("May 9, 2026", "2026-05-09T05:00:00.000+14:00")),
        ("Pacific/Pago_Pago", day(2, 5, month=5), ("May 8, 2026", "2026-05-08T18:00:00.000-11:00")),
    ],
    ids=["east", "west"],
)
def dated(request: pytest.FixtureRequest, app: Flask) -> Iterator[DatedInvoice]:
    zone, closed_at, expected = request.param
    with app.app_context():
        organization = create_organization(plan="pro@1", zone=zone)
        clock.freeze_time(closed_at)
        assert not period_close.close_due(closed_at, organization.id).failed
    yield DatedInvoice(organization, *expected)
    clock.freeze_time(None)


def test_mails_and_document_name_the_same_due_date(app: Flask, dated: DatedInvoice) -> None:
    """B10: mail and PDF named different days wherever the local and the UTC date differed."""
    with app.app_context():
        [invoice] = dated.organization.invoices()
        for days in (0, 3, 5, 7):
            clock.freeze_time(invoice.due_at + timedelta(days=days))
            assert dunning.run_dunning(clock.now()).failed == []
        texts = dated.mail_texts()
        with dated.organization.transaction() as session:
            document = invoice_documents.get_document(session, dated.organization.id, invoice.id)
    assert [f" {dated.due}\n" in text for text in texts] == [True] * 5, texts
    assert dict(document.facts)["Due"] == dated.due


def test_mails_and_document_are_in_the_locale_of_the_organization(app: Flask) -> None:
    with app.app_context():
        organization = create_organization(plan="pro@1")
        with tenancy.system_session("auth.organizations") as session:
            session.get_one(Organization, organization.id).locale = "en-DE"
        clock.freeze_time(day(1, 15, month=5))
        assert not period_close.close_due(clock.now(), organization.id).failed
        [invoice] = organization.invoices()
        clock.freeze_time(invoice.due_at + timedelta(days=5))
        assert dunning.run_dunning(clock.now()).failed == []
        with tenancy.system_session("mail.deliver") as session:
            due = session.scalars(sa.text("SELECT text_body FROM mails WHERE text_body LIKE '%due: %'")).all()
        with organization.transaction() as session:
            document = invoice_documents.get_document(session, organization.id, invoice.id)
        assert formatting.format_money(9_900, "USD") == "$99.00", "the locale ends with its text"
    assert due
    for text in due:
        assert ("99,00 US$" in text, " 8 May 2026\n" in text) == (True, True), text
    assert dict(document.facts)["Due"] == "8 May 2026"
    assert document.sums[-1].amount == "99,00\N{NO-BREAK SPACE}US$"


def test_pages_and_files_name_the_same_due_date(app: Flask, client: FlaskClient, dated: DatedInvoice) -> None:
    """B10: the list of invoices, the home page, the invoice's page and CSV."""
    with app.app_context():
        [invoice] = dated.organization.invoices()
    clock.freeze_time(None)  # a session of May would be over
    owner = browse(app, sign_in(client, *OWNER))
    clock.freeze_time(invoice.due_at - timedelta(days=1))
    for path in (BILLING, "/dashboard", f"{BILLING}/invoices/{ids.format_id('inv', invoice.id)}"):
        assert dated.due in page_text(owner.open(path)), path
    [row] = csv.DictReader(io.StringIO(owner.open(f"{BILLING}?format=csv").text.removeprefix("\ufeff")))
    assert row["due_date"] == dated.due_time
    assert row["period_ends_at"].startswith("2026-05-01T00:00:00.000")
    [line] = owner.open("/dashboard/audit-log?format=csv&action=invoice.finalized").text.splitlines()[1:]
    assert dated.due_time[-6:] in line
