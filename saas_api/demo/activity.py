"""What a company does: people, keys, messages, invoices, payments."""

import functools
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import audit, invitations, organizations, users
from saas_api.accounts.audit import SYSTEM_ACTOR, Actor, OperatorContext
from saas_api.accounts.models import Membership
from saas_api.api_keys import keys
from saas_api.billing import alerts, period_close, periods, spend_cap, subscriptions, wallet
from saas_api.billing.models import GrantKind
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.demo import timeline, traffic
from saas_api.demo.companies import DemoCompany, DemoLogin
from saas_api.demo.timeline import Timeline
from saas_api.demo.traffic import DemoMessage, DemoRefusals
from saas_api.messages import events as message_events
from saas_api.messages.models import Message
from saas_api.payments import checkout, dunning, provider_events
from saas_api.payments.checkout import PaymentRequest
from saas_api.providers import mock_payments
from saas_api.webhooks import endpoints
from saas_api.webhooks import events as webhook_events
from saas_api.webhooks import secrets as signing_secrets

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WEBHOOK_DAYS = 3
"""How long back messages were told to endpoints, one by one."""
MAX_WEBHOOK_EVENTS = 120
_TERMS = text("UPDATE billing_profiles SET net_terms_days = :days WHERE organization_id = :org")
MAIL_DAYS = 7
"""Days are written together, but never across the end of a month."""


class CompanyActivity:
    """One company on the stage.

    number: of messages in all its time
    """

    def __init__(self, stage: Timeline, company: DemoCompany, number: int) -> None:
        self.stage, self.company, self.number = stage, company, number
        self.logins: list[DemoLogin] = []
        self.key_text = ""
        self.id: UUID
        self.owner: Principal
        self.keys: list[UUID] = []
        self.waiting: list[DemoMessage] = []
        self.refused: list[DemoRefusals] = []
        self.zone = clock.get_zone(company.zone)

    def schedule(self) -> None:
        """Put everything on the stage that happens to the company."""
        first = self.stage.begins_at
        plan = [
            (timedelta(), self._found),
            (HOUR, self._choose(self.company.plan)),
            (2 * HOUR, self._make_keys),
            (DAY, self._staff),
            (2 * DAY, self._listen),
            (5 * DAY, self._limit_spending),
            (20 * DAY, self._tidy_keys),
        ]
        if self.company.later:
            plan.append(((self.stage.ends_at - first) / 2, self._choose(self.company.later)))
        for after, act in plan:
            self.stage.schedule(first + after, act)
        self.stage.schedule(self.stage.ends_at - 2 * DAY, self._invite)
        self._send_daily()

    def _found(self) -> None:
        name, role = self.company.people[0]
        with timeline.demo_session() as session:
            owner = self._join(session, name, role, None)
            organization = organizations.create(session, self.company.name, owner)
            organization.timezone = self.company.zone
            organization.billing_email = f"billing@{self.company.domain}"
            self.id = organization.id
        self.owner = Principal("user", owner, self.id, role, email_verified=True, is_recently_authenticated=True)
        with tenancy.tenant_session(self.id) as session:
            periods.ensure_account(session, self.id)
        with timeline.demo_session() as session:
            session.execute(_TERMS, {"org": self.id, "days": self.company.terms_days})
        BillingActivity(self.stage, self.id, self.company).schedule()

    def _choose(self, plan: str) -> Any:
        def choose() -> None:
            if plan == "free":
                return
            with tenancy.tenant_session(self.id) as session:
                subscriptions.change_plan(session, self.id, plan, "now", audit.actor_for(self.owner))

        return choose

    def _make_keys(self) -> None:
        with tenancy.tenant_session(self.id) as session:
            made = [
                keys.create(session, self.id, self.owner, name=name, mode=mode, **options)
                for name, mode, options in (
                    ("Production", "live", {}),
                    ("Newsletter", "live", {"rate_limit_per_minute": 30}),
                    ("Continuous integration", "test", {}),
                    ("Old integration", "live", {"scopes": ["messages:write"]}),
                )
            ]
        self.keys = [key.id for key in made]
        self.key_text = made[0].secret

    def _staff(self) -> None:
        for name, role in self.company.people[1:]:
            with timeline.demo_session() as session:
                user = self._join(session, name, role, self.id)
                change = {"after": {"user": str(user), "email": self.logins[-1].email, "role": role}}
                target = ("user", user)
                audit.record_event(session, self.id, Actor("user", str(user)), "invitation.accepted", target, change)

    def _listen(self) -> None:
        if self.company.plan == "free":
            return
        facts: list[dict[str, Any]] = [
            {"url": f"https://hooks.{self.company.domain}/messages", "description": "Delivery reports for the shop"},
            {
                "url": f"https://erp.{self.company.domain}/saas",
                "description": "Invoices and payments",
                "event_types": ["invoice.finalized", "invoice.paid", "payment.failed", "payment.succeeded"],
            },
        ]
        with tenancy.tenant_session(self.id) as session:
            for one in facts:
                signing_secrets.create_secret(
                    session, endpoints.create(session, self.owner, {"payload": "full", **one})
                )

    def _limit_spending(self) -> None:
        if self.company.plan in ("free", "scale"):
            return
        with tenancy.tenant_session(self.id) as session:
            spend_cap.set_spend_cap(session, self.id, Decimal(400), "block", audit.actor_for(self.owner))

    def _tidy_keys(self) -> None:
        with tenancy.tenant_session(self.id) as session:
            keys.rotate(session, self.owner, self.keys[1], 86_400)
            keys.revoke(session, self.owner, self.keys[3])

    def _invite(self) -> None:
        with tenancy.tenant_session(self.id) as session:
            invitations.create_invitation(session, self.owner, f"new.colleague@{self.company.domain}", "member")

    def _join(self, session: Session, name: str, role: str, organization_id: UUID | None) -> UUID:
        email = f"{name.lower()}{self.mark}@{self.company.domain}"
        login = DemoLogin(email, secrets.token_hex(6), role, self.company.name)
        user = users.create(session, email, login.password, name)
        user.created_at = user.email_verified_at = clock.now()
        if organization_id is not None:
            session.add(Membership(organization_id=organization_id, user_id=user.id, role=role))
        self.logins.append(login)
        return user.id

    mark = ""
    """Follows the names in addresses where another demo has taken them."""

    def _send_daily(self) -> None:
        """Put every local day's messages on, at its end; the first and the last are parts of days."""
        edges = [self.stage.begins_at + 3 * HOUR]
        midnight = edges[0].astimezone(self.zone).replace(hour=0, minute=0, second=0, microsecond=0)
        while (midnight := (midnight + 26 * HOUR).replace(hour=0)) < self.stage.ends_at:
            edges.append(midnight.astimezone(self.stage.ends_at.tzinfo))
        edges.append(self.stage.ends_at)
        shares = traffic.daily_weights(edges[0], len(edges) - 1, self.stage.random(self.company.name))
        shares = [share * (end - begin) / DAY for share, begin, end in zip(shares, edges[:-1], edges[1:], strict=True)]
        total, sent, due = sum(shares), 0, 0.0
        for begin, end, share in zip(edges[:-1], edges[1:], shares, strict=True):
            due += self.number * share / total
            self.stage.schedule(end, self._send(begin, end, round(due) - sent))
            sent = round(due)

    def _send(self, begin: datetime, end: datetime, number: int) -> Any:
        def send() -> None:
            chance = self.stage.random(self.company.name, begin.date())
            self.waiting += traffic.messages_for_day(begin, end, number, self.keys[:3], chance)
            limited = chance.randrange(12) if chance.random() < 0.15 else 0
            refused_at = begin + (end - begin) * chance.uniform(0.4, 0.7)
            failed = round(number * chance.uniform(0.0, 0.02))
            self.refused.append(DemoRefusals(self.keys[0], refused_at, failed, limited))
            is_month_over = end.astimezone(self.zone).day == 1
            if is_month_over or end >= self.stage.ends_at or len(self.refused) >= MAIL_DAYS:
                self._write()

        return send

    def _write(self) -> None:
        with tenancy.tenant_session(self.id) as session:
            is_served = traffic.write_messages(session, self.id, self.waiting)
        if is_served:
            traffic.write_refusals(self.id, self.refused)
            told_from = self.stage.ends_at - WEBHOOK_DAYS * DAY
            self._tell([one for one in self.waiting if one.mode == "live" and one.at > told_from][-MAX_WEBHOOK_EVENTS:])
        self.waiting, self.refused = [], []

    def _tell(self, sent: Sequence[DemoMessage]) -> None:
        for one in sent:
            clock.freeze_time(one.done_at)
            with tenancy.tenant_session(self.id) as session:
                message = session.get_one(Message, (self.id, one.id))
                webhook_events.publish_many(session, self.id, [message_events.status_event(message)])


CLOSE_DELAY, PAYMENT_DELAY = timedelta(hours=2), timedelta(days=2, hours=5)
_PAYMENT_BEHAVIORS = {"decline_first": ["decline", "pay"], "wrong_first": ["pay_wrong", "pay"], "never": []}
CREDITED_COMPANIES = "A gift to make up for the delays in the first week."


class BillingActivity:
    """A company as the one who pays.

    invoices: ids, the oldest first
    """

    def __init__(self, stage: Timeline, organization_id: UUID, company: DemoCompany) -> None:
        self.stage, self.id, self.company = stage, organization_id, company
        self.zone = clock.get_zone(company.zone)

    def schedule(self) -> None:
        """Put the ends of its months on the stage."""
        month = clock.now().astimezone(self.zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        while (month := (month + timedelta(days=32)).replace(day=1)).astimezone(
            clock.now().tzinfo
        ) < self.stage.ends_at:
            self.stage.schedule(month.astimezone(clock.now().tzinfo) + CLOSE_DELAY, self._close)
        if self.company.name == "Acme":
            self.stage.schedule(clock.now() + timedelta(days=12), self._help)

    def _close(self) -> None:
        now = clock.now()
        periods.ensure_accounts(now, self.id)
        for invoice in period_close.close_due(now, self.id).invoices:
            if invoice.id is not None and invoice.status == "open":
                self._await(invoice.id)

    def _await(self, invoice_id: UUID) -> None:
        """Let an invoice be paid after some days, the newest in the company's own way."""
        paid_at = clock.now() + PAYMENT_DELAY
        is_newest = clock.now() + timedelta(days=31) > self.stage.ends_at
        ways = ["pay"]
        if is_newest:
            ways = _PAYMENT_BEHAVIORS.get(self.company.pays, ways)
        for number, way in enumerate(ways):
            self.stage.schedule(paid_at + number * timedelta(hours=3), functools.partial(self._pay, invoice_id, way))

    def _pay(self, invoice_id: UUID, way: str) -> None:
        started = checkout.initiate_payment(self.id, PaymentRequest(invoice_id, provider="mock"), SYSTEM_ACTOR)
        event = mock_payments.submit_action(str(started.provider_reference), way)
        if event is None:
            return
        provider_events.receive_event("mock", event.body, event.signature)
        while provider_events.process_batch("mock"):
            continue

    def _help(self) -> None:
        with timeline.demo_session() as session:
            act = OperatorContext(Actor("operator", "demo"), CREDITED_COMPANIES)
            wallet.grant_credit(session, self.id, GrantSource("demo:gift", GrantKind.PROMOTIONAL), 500, act)


def schedule_dunning(stage: Timeline) -> None:
    """Put the daily look for unpaid invoices on the stage, and a weekly one for reached thresholds."""
    days = int((stage.ends_at - stage.begins_at) / timedelta(days=1))
    for number in range(1, days + 1):
        at = stage.begins_at + timedelta(days=number)
        stage.schedule(at, lambda: dunning.run_dunning(clock.now()))
        if number % 7 == 0 or number == days:
            stage.schedule(at, lambda: alerts.evaluate_alerts(clock.now()))
