"""Recording of metered usage exactly once, together with what the call writes."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from saas_api.billing import periods
from saas_api.core import idempotency
from saas_api.core.access import KeyMode
from saas_api.core.db import engine, group_commit, tenancy
from saas_api.core.db.prepared import Statement
from saas_api.core.errors import ServiceUnavailable
from saas_api.core.faults import fault_point
from saas_api.core.idempotency import KEY_CONSTRAINT, IdempotentRequest
from saas_api.core.limits.limiter import LimitRequest
from saas_api.metering import limits
from saas_api.metering.key_principals import KeyPrincipal
from saas_api.usage import ledger
from saas_api.usage.ledger import MeteredUsage, UsageRecord

MAX_ATTEMPTS = 4
_NO_OPEN_PERIOD = "usage_events.billing_period_id"
_COMMITTED_BEFORE = ("usage_events_pkey", "test_usage_events_pkey")
_DUPLICATES = (
    ledger.KEY_CONSTRAINT,
    "test_usage_events_organization_id_source_idempotency_key_key",
)
_LOCK_LIMITS = text("SELECT pg_advisory_xact_lock(hashtextextended(:organization, 3))")


class UsageRecordedBefore(Exception):
    """Usage with the same source and idempotency key was recorded before."""


def record(
    principal: KeyPrincipal,
    call: LimitRequest | None,
    event: UsageRecord,
    statements: Sequence[Statement] = (),
    idempotent_request: tuple[IdempotentRequest, Any] | None = None,
) -> None:
    """Record the usage of one call with what it writes, in one round trip and one transaction.

    call: with its decision; where Redis did not make it, quotas and cap are checked again under a lock
    statements: of the call, for `engine.execute_batch`; they see the usage's organization only
    idempotent_request: with the data of its response, which is stored with the usage
    raises: UsageRecordedBefore; QuotaExceeded, SpendCapReached; IdempotencyKeyReused, AlreadyAnswered;
        ServiceUnavailable when no billing period can be opened
    """
    response = [idempotent_request[0].statement(idempotent_request[1])] if idempotent_request else []
    is_late, is_cleared = False, False
    for _ in range(MAX_ATTEMPTS):
        batch = [*usage_statements(principal, event, is_late=is_late), *response, *statements]
        try:
            _execute(principal, call, event, batch)
        except IntegrityError as error:
            violated = engine.violated_constraint(error)
            if violated in _COMMITTED_BEFORE:  # the first try was committed when its connection broke
                return
            if violated in _DUPLICATES:
                raise UsageRecordedBefore from error
            if violated == KEY_CONSTRAINT and idempotent_request and not is_cleared:
                is_cleared = True
                _raise_if_answered(idempotent_request[0])
            elif violated == _NO_OPEN_PERIOD and not is_late:
                is_late = True
                _open_period(principal, event)
            else:
                raise
        else:
            fault_point("accept.after_commit")
            return
    raise ServiceUnavailable


def record_in_session(session: Session, principal: KeyPrincipal, call: LimitRequest | None, event: UsageRecord) -> None:
    """Record the usage of one call in the transaction of its effect.

    session: of the request, bound to the organization
    raises: as `record`
    """
    if _needs_exact_check(call):
        lock_limits(session, principal)
        limits.require_room(principal, [_usage_of(event)])
    for is_late in (False, True):
        try:
            with session.begin_nested():
                for sql, values in usage_statements(principal, event, is_late=is_late):
                    session.connection().exec_driver_sql(sql, values)
        except IntegrityError as error:
            violated = engine.violated_constraint(error)
            if violated in _DUPLICATES:
                raise UsageRecordedBefore from error
            if violated != _NO_OPEN_PERIOD or is_late:
                raise
            _open_period(principal, event)
        else:
            return


def usage_statements(principal: KeyPrincipal, event: UsageRecord, *, is_late: bool) -> list[Statement]:
    """Statements of `engine.execute_batch` that record usage of a live key in the ledger, and keep that of a test key.

    is_late: no open period contains the time of the call
    """
    if principal.mode != KeyMode.LIVE:
        return [ledger.append_test_usage_statement(principal.organization_id, event)]
    return [*periods.record_usage_statements(principal.organization_id, event, is_late=is_late)]


def lock_limits(session: Session, principal: KeyPrincipal) -> None:
    """Let one transaction at a time compare quotas and cap of an organization with PostgreSQL, until it ends."""
    session.execute(_LOCK_LIMITS, {"organization": str(principal.organization_id)})


def _execute(
    principal: KeyPrincipal, call: LimitRequest | None, event: UsageRecord, batch: Sequence[Statement]
) -> None:
    if not _needs_exact_check(call):
        group_commit.write(principal.organization_id, batch)
        return
    with tenancy.tenant_session(principal.organization_id) as session:
        lock_limits(session, principal)
        limits.require_room(principal, [_usage_of(event)])
        for sql, values in batch:
            session.connection().exec_driver_sql(sql, dict(values))


def _needs_exact_check(call: LimitRequest | None) -> bool:
    return call is not None and call.decision is not None and call.decision.is_local and bool(call.counters)


def _usage_of(event: UsageRecord) -> MeteredUsage:
    return MeteredUsage(event.meter, Decimal(event.quantity), event.properties)


def _raise_if_answered(idempotent_request: IdempotentRequest) -> None:
    """Delete an expired response that is in the way, or raise the stored one."""
    with tenancy.tenant_session(idempotent_request.organization_id) as session:
        idempotency.raise_if_answered(session, idempotent_request)


def _open_period(principal: KeyPrincipal, event: UsageRecord) -> None:
    with tenancy.tenant_session(principal.organization_id) as session:
        periods.ensure_account(session, principal.organization_id)
        periods.ensure_period(session, principal.organization_id, event.at)
