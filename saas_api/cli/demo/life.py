"""The life of one company: founded, staffed, sending every day, billed every month, paying or not."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.api_keys import service as api_keys
from saas_api.billing import service as billing
from saas_api.cli.demo import traffic
from saas_api.cli.demo.cast import Company, Login
from saas_api.cli.demo.money import Customer
from saas_api.cli.demo.stage import Stage, system
from saas_api.core import clock, tenancy
from saas_api.core.access import Principal
from saas_api.messages.rules import State
from saas_api.messages.service.telling import news_of
from saas_api.organizations import service as organizations
from saas_api.organizations.models import Membership
from saas_api.organizations.service import audit
from saas_api.users import service as users
from saas_api.webhooks import service as webhooks

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TOLD_DAYS = 3
"""How long back messages were told to endpoints, one by one."""
TOLD_MOST = 120
_TERMS = text("UPDATE billing_profiles SET net_terms_days = :days WHERE organization_id = :org")
WRITTEN_DAYS = 7
"""Days are written together, but never across the end of a month."""


class Life:
    """One company on the stage.

    number: of messages in all its time
    """

    def __init__(self, stage: Stage, company: Company, number: int) -> None:
        self.stage, self.company, self.number = stage, company, number
        self.logins: list[Login] = []
        self.key_text = ""
        self.id: UUID
        self.owner: Principal
        self.keys: list[UUID] = []
        self.waiting: list[traffic.Sent] = []
        self.refused: list[traffic.Refused] = []
        self.zone = clock.zone(company.zone)

    def begin(self) -> None:
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
            self.stage.put_on(first + after, act)
        self.stage.put_on(self.stage.ends_at - 2 * DAY, self._invite)
        self._send_daily()

    def _found(self) -> None:
        name, role = self.company.people[0]
        with system() as session:
            owner = self._join(session, name, role, None)
            organization = organizations.create(session, self.company.name, owner)
            organization.timezone = self.company.zone
            organization.billing_email = f"billing@{self.company.domain}"
            self.id = organization.id
        self.owner = Principal("user", owner, self.id, role, email_verified=True, is_fresh=True)
        with tenancy.transaction(self.id) as session:
            billing.ensure_account(session, self.id)
        with system() as session:
            session.execute(_TERMS, {"org": self.id, "days": self.company.terms_days})
        Customer(self.stage, self.id, self.company).begin()

    def _choose(self, plan: str) -> Any:
        def choose() -> None:
            if plan == "free":
                return
            with tenancy.transaction(self.id) as session:
                billing.change_plan(session, self.id, plan, "now", audit.actor_of(self.owner))

        return choose

    def _make_keys(self) -> None:
        with tenancy.transaction(self.id) as session:
            made = [
                api_keys.create(session, self.id, self.owner, name=name, mode=mode, **options)
                for name, mode, options in (
                    ("Production", "live", {}),
                    ("Newsletter", "live", {"rate_limit_per_minute": 30}),
                    ("Continuous integration", "test", {}),
                    ("Old integration", "live", {"scopes": ["messages:write"]}),
                )
            ]
        self.keys = [one.key.id for one in made]
        self.key_text = made[0].text

    def _staff(self) -> None:
        for name, role in self.company.people[1:]:
            with system() as session:
                user = self._join(session, name, role, self.id)
                change = {"after": {"user": str(user), "email": self.logins[-1].email, "role": role}}
                target = ("user", user)
                audit.record(session, self.id, audit.Actor("user", str(user)), "invitation.accepted", target, change)

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
        with tenancy.transaction(self.id) as session:
            for one in facts:
                webhooks.issue(session, webhooks.create(session, self.owner, {"payload": "full", **one}))

    def _limit_spending(self) -> None:
        if self.company.plan in ("free", "scale"):
            return
        with tenancy.transaction(self.id) as session:
            billing.set_cap(session, self.id, Decimal(400), "block", audit.actor_of(self.owner))

    def _tidy_keys(self) -> None:
        with tenancy.transaction(self.id) as session:
            api_keys.rotate(session, self.owner, self.keys[1], 86_400)
            api_keys.revoke(session, self.owner, self.keys[3])

    def _invite(self) -> None:
        with tenancy.transaction(self.id) as session:
            organizations.invite(session, self.owner, f"new.colleague@{self.company.domain}", "member")

    def _join(self, session: Session, name: str, role: str, organization_id: UUID | None) -> UUID:
        email = f"{name.lower()}{self.mark}@{self.company.domain}"
        login = Login(email, secrets.token_hex(6), role, self.company.name)
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
        shares = traffic.weights(edges[0], len(edges) - 1, self.stage.chance(self.company.name))
        shares = [share * (end - begin) / DAY for share, begin, end in zip(shares, edges[:-1], edges[1:], strict=True)]
        total, sent, due = sum(shares), 0, 0.0
        for begin, end, share in zip(edges[:-1], edges[1:], shares, strict=True):
            due += self.number * share / total
            self.stage.put_on(end, self._send(begin, end, round(due) - sent))
            sent = round(due)

    def _send(self, begin: datetime, end: datetime, number: int) -> Any:
        def send() -> None:
            chance = self.stage.chance(self.company.name, begin.date())
            self.waiting += traffic.a_day(begin, end, number, self.keys[:3], chance)
            limited = chance.randrange(12) if chance.random() < 0.15 else 0
            refused_at = begin + (end - begin) * chance.uniform(0.4, 0.7)
            failed = round(number * chance.uniform(0.0, 0.02))
            self.refused.append(traffic.Refused(self.keys[0], refused_at, failed, limited))
            is_month_over = end.astimezone(self.zone).day == 1
            if is_month_over or end >= self.stage.ends_at or len(self.refused) >= WRITTEN_DAYS:
                self._write()

        return send

    def _write(self) -> None:
        with tenancy.transaction(self.id) as session:
            is_served = traffic.write(session, self.id, self.waiting)
        if is_served:
            traffic.refuse(self.id, self.refused)
            told_from = self.stage.ends_at - TOLD_DAYS * DAY
            self._tell([one for one in self.waiting if one.mode == "live" and one.at > told_from][-TOLD_MOST:])
        self.waiting, self.refused = [], []

    def _tell(self, sent: Sequence[traffic.Sent]) -> None:
        for one in sent:
            clock.travel_to(one.done_at)
            state = State(one.id, one.channel, one.recipient, one.size, "live", one.status, 1, one.error)
            with tenancy.transaction(self.id) as session:
                webhooks.publish_many(session, self.id, [news_of(state)])
