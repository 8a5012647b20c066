"""Activity of a demo organization: users, keys, messages, webhooks, invoices and payments, through the services.

Only messages with their usage are inserted in bulk, by `demo.traffic`.
"""

import functools
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID

from sqlalchemy import text

from saas_api.accounts import audit, invitations, organizations, users
from saas_api.accounts.audit import SYSTEM_ACTOR, Actor, OperatorContext
from saas_api.accounts.models import Membership
from saas_api.api_keys import keys, last_use
from saas_api.billing import alerts, period_close, periods, settlement, spend_cap, subscriptions
from saas_api.billing.models import CreditGrant, GrantKind, InvoiceStatus
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, request_context, time_zones
from saas_api.core.access import KeyMode, Principal
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import TooManyRequests, ValidationFailed
from saas_api.core.roles import MemberRole
from saas_api.demo import timeline, traffic
from saas_api.demo.organizations import DemoLogin, DemoOrganization
from saas_api.demo.timeline import Timeline
from saas_api.demo.traffic import DemoMessage
from saas_api.messages import events as message_events
from saas_api.messages.models import Message
from saas_api.payments import checkout, dunning, provider_events
from saas_api.payments.checkout import AlreadyPaid, PaymentRequest
from saas_api.providers import mock_payments
from saas_api.usage import request_log, request_recorder
from saas_api.usage.request_recorder import RequestDetails
from saas_api.webhooks import endpoints
from saas_api.webhooks import events as webhook_events
from saas_api.webhooks import secrets as signing_secrets

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WEBHOOK_DAYS, MAX_WEBHOOK_EVENTS = 3, 120
"""Only the last messages publish webhook events."""
DAYS_PER_WRITE = 7
"""Messages of several days are written together, but never across the end of a month."""
CLOSE_DELAY, PAYMENT_DELAY, RETRY_DELAY = 2 * HOUR, timedelta(days=2, hours=5), 3 * HOUR
_PAYMENT_ACTIONS = {"decline_first": ["decline", "pay"], "wrong_first": ["pay_wrong", "pay"], "never": []}
_SEND_ROUTE = "/api/v1/messages/send"
_INVALID, _LIMITED = ((error.status, error.code, error.message) for error in (ValidationFailed, TooManyRequests))
# Less than the fee of four days, the shortest first period, so that its invoice stays open.
_CREDIT_MINOR = 200
_CREDIT_REASON = "A gift to make up for the delays in the first week."
_SET_TERMS = text("UPDATE billing_profiles SET net_terms_days = :days WHERE organization_id = :org")
_KEYS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("Production", "live", {}),
    ("Newsletter", "live", {"rate_limit_per_minute": 30}),
    ("Continuous integration", "test", {}),
    ("Old integration", "live", {"scopes": ["messages:write"]}),
)


class OrganizationActivity:
    """Schedules everything that an organization does.

    message_count: number of messages in the whole time
    email_suffix: follows the names in addresses, when another demo uses the plain ones
    """

    id: UUID
    owner: Principal

    def __init__(
        self, demo_timeline: Timeline, organization: DemoOrganization, message_count: int, email_suffix: str
    ) -> None:
        self.timeline, self.organization = demo_timeline, organization
        self.message_count, self.email_suffix = message_count, email_suffix
        self.zone = time_zones.get_zone(organization.zone)
        self.logins: list[DemoLogin] = []
        self.key_text = ""
        self.key_ids: list[UUID] = []
        self.unwritten: list[DemoMessage] = []
        self.unwritten_days = 0
        self.latency = demo_timeline.random(organization.name, "latency")

    def schedule(self) -> None:
        """Put the steps of the organization on the timeline."""
        begins_at, ends_at, later_plan = self.timeline.begins_at, self.timeline.ends_at, self.organization.later_plan
        steps: list[tuple[datetime, Callable[[], object]]] = [
            (begins_at, self._sign_up),
            (begins_at + HOUR, functools.partial(self._change_plan, self.organization.plan)),
            (begins_at + 2 * HOUR, self._create_keys),
            (begins_at + DAY, self._add_members),
            (begins_at + 2 * DAY, self._create_endpoints),
            (begins_at + 5 * DAY, self._set_spend_cap),
            (begins_at + 20 * DAY, self._rotate_keys),
            (ends_at - 2 * DAY, self._invite),
        ]
        if later_plan:
            steps.append((begins_at + (ends_at - begins_at) / 2, functools.partial(self._change_plan, later_plan)))
        for at, step in steps:
            self.timeline.schedule(at, step)
        self._schedule_messages()

    def _sign_up(self) -> None:
        name, role = self.organization.users[0]
        with timeline.demo_session() as session:
            owner_id = self._create_user(session, name, role)
            self.id = organizations.create_organization(
                session, self.organization.name, owner_id, self.organization.zone
            ).id
        self.owner = Principal("user", owner_id, self.id, role, email_verified=True, is_recently_authenticated=True)
        with tenancy.tenant_session(self.id) as session:
            periods.ensure_account(session, self.id)
            billing_email = f"billing@{self.organization.domain}"
            organizations.update_organization(session, self.owner, {"billing_email": billing_email})
        with timeline.demo_session() as session:
            session.execute(_SET_TERMS, {"org": self.id, "days": self.organization.terms_days})
        BillingActivity(self.timeline, self.id, self.organization).schedule()

    def _create_user(self, session: SystemSession, name: str, role: str) -> UUID:
        email = f"{name.lower()}{self.email_suffix}@{self.organization.domain}"
        login = DemoLogin(email, secrets.token_hex(6), role, self.organization.name)
        user = users.create_user(session, email, login.password, name)
        user.created_at = clock.now()
        users.mark_email_verified(session, user)
        self.logins.append(login)
        return user.id

    def _change_plan(self, plan: str) -> None:
        if plan != "free":
            with tenancy.tenant_session(self.id) as session:
                subscriptions.change_plan(session, self.id, plan, "now", audit.actor_for(self.owner))

    def _create_keys(self) -> None:
        with tenancy.tenant_session(self.id) as session:
            created = [
                keys.create_key(session, self.id, self.owner, name=name, mode=mode, **options)
                for name, mode, options in _KEYS
            ]
        self.key_ids = [key.id for key in created]
        self.key_text = created[0].secret

    def _add_members(self) -> None:
        """Add the other users; a token of an invitation is only in its mail, so none is accepted here."""
        for name, role in self.organization.users[1:]:
            with timeline.demo_session() as session:
                user_id = self._create_user(session, name, role)
                session.add(Membership(organization_id=self.id, user_id=user_id, role=role, created_at=clock.now()))
                change = {"after": {"user": str(user_id), "email": self.logins[-1].email, "role": role}}
                actor, target = Actor("user", str(user_id)), ("user", user_id)
                audit.record_event(session, self.id, actor, "invitation.accepted", target, change)

    def _create_endpoints(self) -> None:
        if self.organization.plan == "free":
            return
        domain = self.organization.domain
        messages = {"url": f"https://hooks.{domain}/messages", "description": "Delivery reports for the shop"}
        invoices = {
            "url": f"https://erp.{domain}/saas",
            "description": "Invoices and payments",
            "event_types": ["invoice.finalized", "invoice.paid", "payment.failed", "payment.succeeded"],
        }
        with tenancy.tenant_session(self.id) as session:
            for values in (messages, invoices):
                endpoint = endpoints.create_endpoint(session, self.owner, {"mode": "live", "payload": "full", **values})
                signing_secrets.create_secret(session, endpoint)

    def _set_spend_cap(self) -> None:
        if self.organization.plan not in ("free", "scale"):
            with tenancy.tenant_session(self.id) as session:
                spend_cap.set_spend_cap(session, self.owner, Decimal(400), "block")

    def _rotate_keys(self) -> None:
        with tenancy.tenant_session(self.id) as session:
            keys.rotate_key(session, self.owner, self.key_ids[1], 86_400)
            keys.revoke_key(session, self.owner, self.key_ids[3])

    def _invite(self) -> None:
        with tenancy.tenant_session(self.id) as session:
            email = f"new.colleague@{self.organization.domain}"
            invitations.create_invitation(session, self.owner, email, MemberRole.MEMBER)

    def _schedule_messages(self) -> None:
        """Put the messages of each local day on the timeline, at its end; the first and the last day are partial."""
        edges = [self.timeline.begins_at + 3 * HOUR]
        midnight = edges[0].astimezone(self.zone).replace(hour=0, minute=0, second=0, microsecond=0)
        while (midnight := (midnight + 26 * HOUR).replace(hour=0)) < self.timeline.ends_at:
            edges.append(midnight.astimezone(self.timeline.ends_at.tzinfo))
        edges.append(self.timeline.ends_at)
        days = list(pairwise(edges))
        weights = traffic.daily_weights(edges[0], len(days), self.timeline.random(self.organization.name))
        weights = [weight * (end - begin) / DAY for weight, (begin, end) in zip(weights, days, strict=True)]
        scheduled, due = 0, 0.0
        for (begin, end), weight in zip(days, weights, strict=True):
            due += self.message_count * weight / sum(weights)
            self.timeline.schedule(end, functools.partial(self._send_messages, begin, end, round(due) - scheduled))
            scheduled = round(due)

    def _send_messages(self, begin: datetime, end: datetime, count: int) -> None:
        chance = self.timeline.random(self.organization.name, begin.date())
        self.unwritten += traffic.messages_for_day(begin, end, count, self.key_ids[:3], chance)
        self.unwritten_days += 1
        rate_limited = chance.randrange(12) if chance.random() < 0.15 else 0
        refused_at = begin + (end - begin) * chance.uniform(0.4, 0.7)
        self._count_refused(refused_at, {_INVALID: round(count * chance.uniform(0.0, 0.02)), _LIMITED: rate_limited})
        is_end_of_month = end.astimezone(self.zone).day == 1
        if is_end_of_month or end >= self.timeline.ends_at or self.unwritten_days >= DAYS_PER_WRITE:
            self._write_messages()

    def _count_refused(self, refused_at: datetime, counts: Mapping[tuple[int, str, str], int]) -> None:
        step_at = clock.now()
        clock.freeze_time(refused_at)
        caller = Principal("key", self.key_ids[0], self.id)
        for (status, code, message), count in counts.items():
            details = RequestDetails(error_code=code, error_message=message)
            for _ in range(count):
                self._record_request(caller, status, details)
        clock.freeze_time(step_at)

    def _record_request(self, caller: Principal, status: int, details: RequestDetails) -> None:
        """Record a request as if it had come now."""
        request_context.begin_request(f"req_{secrets.token_hex(12)}", "203.0.113.20")
        microseconds = round(1000 * self.latency.lognormvariate(2, 0.6))
        request_recorder.record(caller, "POST", _SEND_ROUTE, status, microseconds, lambda: details)
        request_context.clear_context()

    def _write_messages(self) -> None:
        with tenancy.tenant_session(self.id) as session:
            is_accepted = traffic.write_messages(session, self.id, self.unwritten)
        if is_accepted:
            self._record_use()
            events_begin_at = self.timeline.ends_at - WEBHOOK_DAYS * DAY
            live = [
                message for message in self.unwritten if message.mode == KeyMode.LIVE and message.at > events_begin_at
            ]
            self._publish_events(live[-MAX_WEBHOOK_EVENTS:])
        self.unwritten, self.unwritten_days = [], 0

    def _record_use(self) -> None:
        for message in self.unwritten:
            clock.freeze_time(message.at)
            last_use.mark_used(self.id, message.key)
            if message.at > self.timeline.ends_at - request_log.DAYS_KEPT * DAY:
                caller = Principal("key", message.key, self.id, mode=message.mode)
                self._record_request(caller, 202, RequestDetails(message_id=message.id))
        request_recorder.flush()

    def _publish_events(self, messages: Sequence[DemoMessage]) -> None:
        for message in messages:
            clock.freeze_time(message.done_at)
            with tenancy.tenant_session(self.id) as session:
                row = session.get_one(Message, (self.id, message.id))
                webhook_events.publish_many(session, self.id, [message_events.status_event(row)])


class BillingActivity:
    """Schedules the period ends and payments of an organization."""

    def __init__(self, demo_timeline: Timeline, organization_id: UUID, organization: DemoOrganization) -> None:
        self.timeline, self.id, self.organization = demo_timeline, organization_id, organization
        self.zone = time_zones.get_zone(organization.zone)

    def schedule(self) -> None:
        """Put the ends of the months on the timeline, and a promotional credit of Acme."""
        now = closing_at = clock.now()
        while (closing_at := self._next_close(closing_at)) < self.timeline.ends_at:
            self.timeline.schedule(closing_at, self._close_period)
        if self.organization.name == "Acme":
            self.timeline.schedule(now + 12 * DAY, self._grant_credit)

    def _next_close(self, after: datetime) -> datetime:
        """When the period is closed that ends with the local month of an instant."""
        month = after.astimezone(self.zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return (month + 32 * DAY).replace(day=1).astimezone(after.tzinfo) + CLOSE_DELAY

    def _close_period(self) -> None:
        now = clock.now()
        periods.ensure_accounts(now, self.id)
        for item in period_close.close_due(now, self.id).invoices:
            if item.invoice.status == InvoiceStatus.OPEN:
                self._schedule_payment(item.invoice.id)

    def _schedule_payment(self, invoice_id: UUID) -> None:
        """Pay an invoice some days later; the newest one with a due payment as the organization behaves."""
        first_at = clock.now() + PAYMENT_DELAY
        actions = _PAYMENT_ACTIONS.get(self.organization.payment_behavior, ["pay"])
        settled_after = PAYMENT_DELAY + len(actions) * RETRY_DELAY if actions else timedelta()
        if self._next_close(clock.now()) + settled_after <= self.timeline.ends_at:  # a later invoice shows the behavior
            actions = ["pay"]
        for number, action in enumerate(actions):
            self.timeline.schedule(first_at + number * RETRY_DELAY, functools.partial(self._pay, invoice_id, action))

    def _pay(self, invoice_id: UUID, action: str) -> None:
        try:
            payment = checkout.initiate_payment(self.id, PaymentRequest(invoice_id, provider="mock"), SYSTEM_ACTOR)
        except AlreadyPaid:  # from the wallet
            return
        event = mock_payments.submit_action(str(payment.provider_reference), action)
        if event is None:
            return
        provider_events.receive_event("mock", event.body, event.signature)
        while provider_events.process_batch("mock"):
            continue

    def _grant_credit(self) -> None:
        with timeline.demo_session() as session:
            context = OperatorContext(Actor("operator", "demo"), _CREDIT_REASON)
            source = GrantSource("demo:gift", GrantKind.PROMOTIONAL)
            grant_id = settlement.grant_credit(session, self.id, source, _CREDIT_MINOR, context)
            session.get_one(CreditGrant, (self.id, grant_id)).created_at = clock.now()


def schedule_platform_jobs(demo_timeline: Timeline) -> None:
    """Put dunning of each day and the evaluation of alerts of each week on the timeline."""
    days = int((demo_timeline.ends_at - demo_timeline.begins_at) / DAY)
    for number in range(1, days + 1):
        at = demo_timeline.begins_at + number * DAY
        demo_timeline.schedule(at, lambda: dunning.run_dunning(clock.now()))
        if number % 7 == 0 or number == days:
            demo_timeline.schedule(at, lambda: alerts.evaluate_alerts(clock.now()))
