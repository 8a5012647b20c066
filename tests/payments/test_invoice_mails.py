"""Mails about an invoice carry its PDF, rendered when they are sent; a PDF that fails holds no mail back for ever."""

import io
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pypdf import PdfReader
from sqlalchemy.exc import IntegrityError

from saas_api.billing import invoice_documents, invoice_mails
from saas_api.billing.throttles import INVOICE_COPIES_PER_HOUR
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.mail import attachments, mails
from saas_api.mail.mails import NewMail
from saas_api.payments import jobs
from tests.support.billing_pages import API, browse, invoice_page
from tests.support.mail import CONTEXTS, deliver, mail_rows, make_mails_due
from tests.support.payments import PayingOrganization, create_paying_organization

NUMBER = "INV-000001"
PERIOD = "Apr 1 \N{EN DASH} Apr 30, 2026"


@pytest.fixture(autouse=True)
def mailbox(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(app.config, "INSTANCE", str(tmp_path))
    return tmp_path / "mail"


def sent_mails(mailbox: Path, subject: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Text of the mails with a subject, each with its files: their names, and the texts of these PDFs."""
    found = []
    for path in sorted(mailbox.glob("*.eml")):
        message: Any = message_from_bytes(path.read_bytes(), policy=policy.default)
        if message["Subject"] == subject:
            files = [(part.get_filename(), part.get_content()) for part in message.iter_attachments()]
            texts = [(name, PdfReader(io.BytesIO(pdf)).pages[0].extract_text()) for name, pdf in files]
            found.append((message.get_body(("plain",)).get_content(), texts))
    return found


def enqueue_invoice(organization_id: Any, invoice_id: Any) -> None:
    with tenancy.system_session("mail.deliver") as session:
        template, attachment = "invoice_ready", invoice_mails.attach_invoice(invoice_id)
        mail = NewMail(template, "ann@customer.example", organization_id, CONTEXTS[template], attachment)
        mails.enqueue_many(session, [mail])


def test_invoice_and_receipt_carry_the_pdf_as_it_is_when_they_are_sent(
    app: Flask, acme: PayingOrganization, mailbox: Path
) -> None:
    deliver(app, acme.id)
    acme.choose(acme.begin(), "pay")
    jobs.process_inbox()
    deliver(app, acme.id)
    [(text, [(name, pdf)])] = sent_mails(mailbox, f"Invoice {NUMBER}")
    assert (name, PERIOD in text, "\nOpen\n" in pdf) == (f"{NUMBER}.pdf", True, True)
    [(text, [(name, pdf)])] = sent_mails(mailbox, f"Payment received for {NUMBER}")
    assert (name, PERIOD in text, "\nPaid\n" in pdf) == (f"{NUMBER}.pdf", True, True)


def test_mail_about_a_failed_payment_carries_no_file(app: Flask, acme: PayingOrganization, mailbox: Path) -> None:
    acme.choose(acme.begin(), "decline")
    jobs.process_inbox()
    deliver(app, acme.id)
    assert [files for _, files in sent_mails(mailbox, f"Payment failed for {NUMBER}")] == [[]]


def test_pdf_that_fails_is_rendered_again_and_the_mail_waits_for_it(
    app: Flask, acme: PayingOrganization, mailbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(invoice_documents, "render_pdf", lambda document: document.missing)
        deliver(app, acme.id)
    columns = "status, attempts, error_code, text_body IS NOT NULL"
    waiting = [row for row in mail_rows(app, f"template, {columns}") if row.template == "invoice_ready"]
    assert [tuple(row[1:]) for row in waiting] == [("queued", 1, "attachment_failed", True)]
    make_mails_due(app)
    deliver(app, acme.id)
    [(_, [(name, _)])] = sent_mails(mailbox, f"Invoice {NUMBER}")
    assert name == f"{NUMBER}.pdf"


@pytest.mark.parametrize("problem", ["broken", "large"])
def test_last_attempt_sends_the_mail_without_its_file(
    app: Flask, acme: PayingOrganization, mailbox: Path, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    if problem == "large":
        monkeypatch.setattr(attachments, "MAX_ATTACHMENT_BYTES", 100)
    else:
        monkeypatch.setattr(invoice_documents, "render_pdf", lambda document: document.missing)
    for _ in range(8):
        assert sent_mails(mailbox, f"Invoice {NUMBER}") == []
        deliver(app, acme.id)
        make_mails_due(app)
    [(text, files)] = sent_mails(mailbox, f"Invoice {NUMBER}")
    assert files == []
    assert f"/dashboard/billing/invoices/{ids.format_id('inv', acme.invoice_id)}" in text


def test_mail_never_carries_an_invoice_of_another_organization(
    app: Flask, client: FlaskClient, acme: PayingOrganization, mailbox: Path
) -> None:
    bravo = create_paying_organization(client, "Bravo")
    enqueue_invoice(acme.id, bravo.invoice_id)
    for _ in range(8):
        deliver(app, acme.id)
        make_mails_due(app)
    [(_, files)] = sent_mails(mailbox, "Invoice INV-000042")
    assert files == []


def test_mail_without_an_organization_can_carry_no_file(acme: PayingOrganization) -> None:
    with pytest.raises(IntegrityError, match="mails_attachment_has_owner"):
        enqueue_invoice(None, acme.invoice_id)


def test_member_sends_themselves_an_invoice_by_api_and_page(
    app: Flask, client: FlaskClient, acme: PayingOrganization, mailbox: Path
) -> None:
    deliver(app, acme.id)
    path = f"{API}/invoices/{ids.format_id('inv', acme.invoice_id)}/send"
    response = client.post(path, headers=acme.owner.headers)
    assert (response.status_code, response.json["data"]) == (202, {"sent_to": acme.owner.email})
    owner, page_path = browse(app, acme.owner), invoice_page(acme)
    fields = owner.form(page_path, f"{page_path}/send")
    for _ in range(2):  # a double click sends one
        assert owner.send(f"{page_path}/send", fields).status_code == 303
    assert f"Invoice sent to {acme.owner.email}." in owner.open(page_path).text
    deliver(app, acme.id)
    copies = [mail for mail in sent_mails(mailbox, f"Invoice {NUMBER}") if "Here is the copy" in mail[0]]
    assert [[name for name, _ in files] for _, files in copies] == [[f"{NUMBER}.pdf"]] * 2
    assert all(PERIOD in text and "$99.00" in text for text, _ in copies)


def test_copies_of_invoices_are_limited_and_of_the_own_organization(
    client: FlaskClient, acme: PayingOrganization
) -> None:
    bravo = create_paying_organization(client, "Bravo")
    path = f"{API}/invoices/{ids.format_id('inv', acme.invoice_id)}/send"
    statuses = [client.post(path, headers=bravo.owner.headers).status_code for _ in range(INVOICE_COPIES_PER_HOUR + 1)]
    assert statuses == [404] * INVOICE_COPIES_PER_HOUR + [429]
    assert client.post(path, headers=acme.owner.headers).status_code == 202
