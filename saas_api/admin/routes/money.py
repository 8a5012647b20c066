"""Money across tenants: periods that are due, invoices, payments and what their providers said."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g

from saas_api.admin.queries.money import billing as periods
from saas_api.admin.queries.money import invoices, payments
from saas_api.admin.queries.reading import reading
from saas_api.admin.schemas import files, lists
from saas_api.admin.schemas.acts import EVENT_ACTS, INVOICE_ACTS, PAYMENT_ACTS
from saas_api.admin.service import acting
from saas_api.admin.service import operator as acts_as
from saas_api.billing import service as billing
from saas_api.billing.service.invoicing.crediting import REASONS
from saas_api.core import clock
from saas_api.core.access import operator
from saas_api.core.errors import Invalid
from saas_api.core.money import text_to_minor
from saas_api.core.render import Form, page, see_other, submits
from saas_api.organizations.service import audit

bp = Blueprint("money", __name__, url_prefix="/admin")
_ONE = '/invoices/<id("inv"):invoice_id>'
_PAYMENT = '/payments/<id("pay"):payment_id>'
_EVENT = "/payments/events/<provider>/<path:event_id>"


@bp.get("/billing")
@operator("support")
def billing_index() -> Response:
    """Periods that are due, drafts, parked organizations and the last ticks."""
    now = clock.now()
    with reading() as session:
        shown: dict[str, Any] = {
            "due": periods.due(session, now),
            "drafts": periods.drafts(session),
            "parked": periods.parked(session),
            "runs": periods.runs(session, "billing.close"),
        }
    return page("admin/billing/index.html", now=now, **shown)


@bp.get("/billing/close", defaults={"organization_id": None})
@bp.get('/billing/close/<id("org"):organization_id>')
@operator("admin")
def close_form(organization_id: UUID | None, form: Form | None = None) -> Response:
    """What a close would write, before it is done."""
    drafts = billing.drafts_due(clock.now(), organization_id)
    owners = {draft.organization_id for draft in drafts} | ({organization_id} if organization_id else set())
    with reading() as session:
        names = periods.names(session, owners)
    shown: dict[str, Any] = {"drafts": drafts, "names": names, "organization_id": organization_id}
    return page("admin/billing/close.html", form=form or Form(), **shown)


@bp.post("/billing/close", defaults={"organization_id": None})
@bp.post('/billing/close/<id("org"):organization_id>')
@operator("admin")
@submits(lists.ReasonForm(), again=close_form, is_once=True, is_fresh=True)
def close(organization_id: UUID | None, body: dict[str, str]) -> Response:
    """Close and invoice what is due."""
    now = clock.now()
    with acting() as session:
        target = ("organization", organization_id) if organization_id else ("platform", "billing")
        data = {"reason": body["reason"]}
        audit.record(session, organization_id, acts_as(g.principal), "billing.close_asked", target, data)
    billing.keep_accounts(now, organization_id)
    outcome = billing.close_due(now, organization_id)
    notice = f"Periods closed: {outcome.closed}. Invoices written: {len(outcome.invoices)}."
    failed = f" Organizations that failed: {len(outcome.failed)}; the log says why." if outcome.failed else ""
    return see_other("admin.money.billing_index", _notice=notice + failed)


@bp.get('/billing/unpark/<id("org"):organization_id>')
@operator("admin")
def unpark_form(organization_id: UUID, form: Form | None = None) -> Response:
    """Why an organization is parked, and how it is billed again."""
    with reading() as session:
        profile, name, *_ = periods.get_profile(session, organization_id)
    return page("admin/billing/unpark.html", profile=profile, name=name, form=form or Form())


@bp.post('/billing/unpark/<id("org"):organization_id>')
@operator("admin")
@submits(lists.ReasonForm(), again=unpark_form, is_fresh=True)
def unpark(organization_id: UUID, body: dict[str, str]) -> Response:
    """Let an organization's invoices be finalized again."""
    with acting() as session:
        is_done = billing.unpark(session, organization_id, _act(body))
    notice = "It is billed again. Its drafts wait for you to finalize them." if is_done else "It was not parked."
    return see_other("admin.money.billing_index", _notice=notice)


@bp.get("/invoices")
@operator("support")
def invoice_index() -> Response:
    """Invoices of every organization, by state and age."""
    query, now = lists.asked(lists.InvoicesQuery()), clock.now()
    with reading() as session:
        found, sums = invoices.history(session, query, now), invoices.sums(session, now)
    if query["format"] == "csv":
        return files.file_of("invoices", files.INVOICES, found)
    return page("admin/invoices/index.html", found=found, sums=sums, states=lists.INVOICE_STATES, now=now)


@bp.get(_ONE)
@operator("support")
def invoice(invoice_id: UUID) -> Response:
    """One invoice with its lines, credit notes and payments."""
    with reading() as session:
        opened = invoices.open_one(session, invoice_id)
    return page("admin/invoices/show.html", opened=opened, acts=INVOICE_ACTS, now=clock.now())


@bp.get(f"{_ONE}/<any({', '.join(repr(verb) for verb in INVOICE_ACTS)}):verb>")
@operator("admin")
def invoice_act_form(invoice_id: UUID, verb: str, form: Form | None = None) -> Response:
    """What an act on an invoice does, before it is done."""
    with reading() as session:
        opened = invoices.open_one(session, invoice_id)
    return page("admin/invoices/act.html", opened=opened, verb=verb, act=INVOICE_ACTS[verb], form=form or Form())


@bp.post(f"{_ONE}/<any({', '.join(repr(verb) for verb in INVOICE_ACTS)}):verb>")
@operator("admin")
@submits(lists.VoidForm(), again=invoice_act_form, is_once=True, is_fresh=True)
def invoice_act(invoice_id: UUID, verb: str, body: dict[str, str]) -> Response:
    """Do it."""
    with reading() as session:
        owner = invoices.open_one(session, invoice_id).invoice.organization_id
    with acting() as session:
        if verb == "void":
            is_replaced = bool(body["is_replaced"])
            billing.void(session, owner, invoice_id, _act(body), is_replaced=is_replaced)
        else:
            INVOICE_ACTS[verb].call(session, owner, invoice_id, _act(body))
    notice = INVOICE_ACTS[verb].done
    if verb == "delete":
        return see_other("admin.money.billing_index", _notice=notice)
    return see_other("admin.money.invoice", invoice_id=invoice_id, _notice=notice)


@bp.get(f"{_ONE}/credit")
@operator("admin")
def credit_form(invoice_id: UUID, form: Form | None = None) -> Response:
    """A credit note that is not written yet."""
    with reading() as session:
        opened = invoices.open_one(session, invoice_id)
    shown = form or Form({"kind": "billing_error"})
    return page("admin/invoices/credit.html", opened=opened, kinds=REASONS, form=shown)


@bp.post(f"{_ONE}/credit")
@operator("admin")
@submits(lists.CreditForm(), again=credit_form, is_once=True, is_fresh=True)
def credit(invoice_id: UUID, body: dict[str, str]) -> Response:
    """Write the credit note."""
    with reading() as session:
        found = invoices.open_one(session, invoice_id).invoice
    minor = None if body["amount"] is None else _minor(body["amount"], found.currency)
    wanted = billing.Credit(body["kind"], {}, minor, body["memo"], is_refund=bool(body["is_refund"]))
    with acting() as session:
        note = billing.credit(session, found.organization_id, invoice_id, wanted, _act(body))
    return see_other("admin.money.invoice", invoice_id=invoice_id, _notice=f"Credit note {note.number} is written.")


@bp.get("/payments")
@operator("support")
def payment_index() -> Response:
    """Payments, and on top those that are quarantined, with the difference."""
    query = lists.asked(lists.PaymentsQuery())
    with reading() as session:
        found, apart = payments.history(session, query), payments.quarantined(session)
    if query["format"] == "csv":
        return files.file_of("payments", files.PAYMENTS, found)
    choices: dict[str, Any] = {"states": lists.PAYMENT_STATES, "providers": lists.PROVIDERS}
    return page("admin/payments/index.html", found=found, apart=apart, **choices)


@bp.get(_PAYMENT)
@operator("support")
def payment(payment_id: UUID) -> Response:
    """One payment, what its provider said, and what goes back of it."""
    with reading() as session:
        one = payments.open_one(session, payment_id)
        events, refunds = payments.events_about(session, one.payment), payments.refunds(session, one.payment)
    return page("admin/payments/show.html", one=one, events=events, refunds=refunds)


@bp.get(f"{_PAYMENT}/<any(ask, resolve):verb>")
@operator("admin")
def payment_act_form(payment_id: UUID, verb: str, form: Form | None = None) -> Response:
    """What an act on a payment does, before it is done."""
    with reading() as session:
        one = payments.open_one(session, payment_id)
    return page("admin/payments/act.html", one=one, act=PAYMENT_ACTS[verb], form=form or Form())


@bp.post(f"{_PAYMENT}/<any(ask, resolve):verb>")
@operator("admin")
@submits(lists.ReasonForm(), again=payment_act_form, is_fresh=True)
def payment_act(payment_id: UUID, verb: str, body: dict[str, str]) -> Response:
    """Do it."""
    after = PAYMENT_ACTS[verb].call(payment_id, acts_as(g.principal), body["reason"])
    notice = f"{PAYMENT_ACTS[verb].done} The payment is {after.state} now."
    return see_other("admin.money.payment", payment_id=payment_id, _notice=notice)


@bp.get("/payments/events")
@operator("support")
def event_index() -> Response:
    """What providers told us."""
    query = lists.asked(lists.EventsQuery())
    with reading() as session:
        found = payments.events(session, query)
    if query["format"] == "csv":
        return files.file_of("payment-events", files.EVENTS, found)
    choices: dict[str, Any] = {"states": lists.EVENT_STATES, "providers": lists.PROVIDERS}
    return page("admin/payments/events.html", found=found, **choices)


@bp.get(_EVENT)
@operator("support")
def event(provider: str, event_id: str) -> Response:
    """One event, without its body: that holds data of customers."""
    with reading() as session:
        found = payments.get_event(session, provider, event_id)
    return page("admin/payments/event.html", event=found)


@bp.get(f"{_EVENT}/<any('take-up', resolve):verb>")
@operator("admin")
def event_act_form(provider: str, event_id: str, verb: str, form: Form | None = None) -> Response:
    """What an act on an event does, before it is done."""
    with reading() as session:
        found = payments.get_event(session, provider, event_id)
    return page("admin/payments/event_act.html", event=found, act=EVENT_ACTS[verb], form=form or Form())


@bp.post(f"{_EVENT}/<any('take-up', resolve):verb>")
@operator("admin")
@submits(lists.ReasonForm(), again=event_act_form, is_fresh=True)
def event_act(provider: str, event_id: str, verb: str, body: dict[str, str]) -> Response:
    """Do it."""
    EVENT_ACTS[verb].call(provider, event_id, acts_as(g.principal), body["reason"])
    return see_other("admin.money.event", provider=provider, event_id=event_id, _notice=EVENT_ACTS[verb].done)


def _act(body: dict[str, str]) -> billing.Act:
    return billing.Act(acts_as(g.principal), body["reason"])


def _minor(amount: object, currency: str) -> int:
    try:
        return text_to_minor(str(amount), currency)
    except ValueError as cause:
        raise Invalid.at("amount", f"Not an amount in {currency}, such as 12.35.") from cause
