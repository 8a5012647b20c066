"""The nightly look at the books: what must be true is read anew from the rows, and what is wrong stops the bills.

A violation parks its organization: its next invoices stay drafts until an operator has looked, whom a mail tells.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingProfile, InvariantResult, PlanVersion
from saas_api.billing.queries import catalogue
from saas_api.billing.queries.invariants import CHECKS, RERATED, ROLLUPS, Check
from saas_api.billing.rules import rating
from saas_api.billing.rules.explaining import explain
from saas_api.core import clock, tenancy
from saas_api.core.errors import Conflict
from saas_api.core.ids import wire_id
from saas_api.core.observe import get_logger
from saas_api.mail import service as mail
from saas_api.organizations.service import audit
from saas_api.usage import service as usage
from saas_api.users import service as users

log = get_logger(__name__)

SAMPLE = 20
_BATCH = 2000
_PATIENCE = text("SET LOCAL statement_timeout = '10min'")
_ALONE = text("SELECT pg_try_advisory_xact_lock(hashtextextended('billing.invariants', 2))")
_EVER = datetime(1, 1, 1, tzinfo=UTC)


class AlreadyChecking(Conflict):
    """Another process looks at the books; two at once would only slow each other down."""

    code, message = "ALREADY_CHECKING", "The checks are running already."


@dataclass(frozen=True)
class Violation:
    """One place where a check does not hold.

    organization_id: None when it is the platform's own books
    """

    organization_id: UUID | None
    what: str


@dataclass(frozen=True)
class Result:
    """What one check found."""

    check: Check
    violations: list[Violation]


def check_invariants(
    organization_id: UUID | None = None,
    *,
    since: datetime | None = None,
    over: Callable[[Sequence[Check]], Iterable[Check]] = iter,
) -> list[Result]:
    """Run every check, keep what they found, park who is affected and tell the operators.

    organization_id: None for all; the findings on one organization are not kept as the night's
    since: leave out the ledgers of periods that ended before
    over: goes through the checks, and may show how far it is
    raises: AlreadyChecking
    """
    at = clock.now()
    values = {"organization_id": organization_id, "since": since or _EVER, "at": at}
    with tenancy.as_system("billing.invariants") as guard:
        if not guard.scalar(_ALONE):
            raise AlreadyChecking
        return _run(values, at, over(CHECKS))


def _run(values: dict[str, Any], at: datetime, checks: Iterable[Check]) -> list[Result]:
    results = []
    for check in checks:
        with tenancy.as_system("billing.invariants") as session:
            session.execute(_PATIENCE)
            result = Result(check, list(_violations(session, check, values)))
            _follow_up(session, result, at, is_kept=values["organization_id"] is None)
        results.append(result)
    if any(result.violations for result in results if result.check.name == ROLLUPS):
        usage.rebuild_rollups()
    return results


def _violations(session: Session, check: Check, values: dict[str, Any]) -> Iterator[Violation]:
    if check.name == RERATED:
        yield from _misrated(session, check, values)
        return
    for row in session.execute(text(check.sql), values):
        yield Violation(row.organization_id, row.what)


def _misrated(session: Session, check: Check, values: dict[str, Any]) -> Iterator[Violation]:
    versions = catalogue.versions(session, set(session.scalars(select(PlanVersion.id))))
    for row in session.execute(text(check.sql), values, execution_options={"yield_per": _BATCH}):
        version = versions.get(row.plan_version_id)
        price = version.prices.get(row.meter_code) if version else None
        try:
            amounts = _amounts(row, price)
        except (ArithmeticError, LookupError, TypeError, ValueError) as problem:
            yield Violation(row.organization_id, f"line {row.id} cannot be rated again: {type(problem).__name__}")
            continue
        if amounts != {row.amount_minor}:
            found = ", ".join(str(amount) for amount in sorted(amounts))
            yield Violation(row.organization_id, f"line {row.id} is {row.amount_minor}, rated again {found}")


def _amounts(row: Any, price: rating.Price | None) -> set[int]:
    """What a line comes to by its stored calculation and, where a price is behind it, by that price."""
    stored, amounts = row.calculation, {explain(row.kind, row.calculation, row.currency, None).recomputed_minor}
    if row.kind == "usage" and price:
        amounts.add(rating.charge(price, row.quantity))
    if row.kind == "late_usage" and price:
        amounts.add(rating.late_charge(price, Decimal(stored["billed"]["quantity"]), row.quantity))
    return amounts


def _follow_up(session: Session, result: Result, at: datetime, *, is_kept: bool) -> None:
    if is_kept:
        _keep(session, result, at)
    if not result.violations:
        return
    for violation in result.violations[:SAMPLE]:
        owner = violation.organization_id
        log.error(
            "invariant_violated", check=result.check.name, organization_id=owner and str(owner), what=violation.what
        )
    if result.check.is_parking:
        _park(session, result, at)
    _alert(session, result)


def _keep(session: Session, result: Result, at: datetime) -> None:
    sample = [
        {"organization_id": found.organization_id and wire_id("org", found.organization_id), "what": found.what}
        for found in result.violations[:SAMPLE]
    ]
    statement = insert(InvariantResult).values(
        check_name=result.check.name, at=at, violations=len(result.violations), sample=sample
    )
    again = {"violations": statement.excluded.violations, "sample": statement.excluded.sample}
    session.execute(statement.on_conflict_do_update(index_elements=["check_name", "at"], set_=again))


def _park(session: Session, result: Result, at: datetime) -> None:
    affected = {found.organization_id: found.what for found in reversed(result.violations) if found.organization_id}
    parked = session.scalars(
        update(BillingProfile)
        .where(BillingProfile.organization_id.in_(affected), BillingProfile.parked_at.is_(None))
        .values(parked_at=at, parked_reason=f"check {result.check.name}")
        .returning(BillingProfile.organization_id)
    ).all()
    for organization_id in parked:
        data = {"check": result.check.name, "what": affected[organization_id]}
        target = ("organization", organization_id)
        audit.record(session, organization_id, audit.SYSTEM, "billing.parked", target, data)


def _alert(session: Session, result: Result) -> None:
    first = result.violations[0]
    owner = f" of {wire_id('org', first.organization_id)}" if first.organization_id else ""
    detail = f"{len(result.violations)} found; the first{owner}: {first.what}"
    for user, _operator in users.operators(session):
        mail.send(
            session,
            "operator_alert",
            user.email,
            name=user.full_name,
            subject_line=f"check {result.check.name} failed",
            detail=detail,
        )
