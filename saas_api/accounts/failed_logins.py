"""Wrong passwords and two-factor codes in the audit log, and the alert about many of them."""

from saas_api.accounts import audit, operators
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.accounts.models import User
from saas_api.core import clock, crypto, ids, request_context
from saas_api.core.db import tenancy
from saas_api.core.limits import limiter
from saas_api.core.limits.circuit_breaker import RedisUnavailable

FAILURES_BEFORE_ALERT = 1000
_RECORDED_COUNTS = frozenset(10**exponent for exponent in range(10))


def record_failure(user: User | None, email: str, action: str) -> int:
    """Record a wrong password or code, in a transaction of its own, because the error rolls the request's back.

    Of the failures of one account, or of one network for unknown addresses, in one hour the 1st, 10th, 100th ... are
    recorded with their number, so that strangers cannot fill the log. Operators get a mail about many failures.

    user: None when no account has the address; its digest is recorded, and the same queries run
    returns: number of these failures of the account or network in this hour
    """
    target = ("user", str(user.id)) if user else ("address", crypto.hmac_hex("throttle", email)[:32])
    network = request_context.network_of(request_context.current_origin().ip or "none")
    count = _count_failures(f"{action}:{target[1] if user else network}")
    total = _count_failures("all")
    with tenancy.system_session("auth.failure") as session:
        if count in _RECORDED_COUNTS:
            for organization_id in audit.list_organizations_of_user(session, user.id if user else ids.new_id()):
                audit.record_event(session, organization_id, SYSTEM_ACTOR, action, target, {"failures_in_hour": count})
        if total == FAILURES_BEFORE_ALERT:
            operators.send_alert(session, "many sign-ins fail", f"{total} wrong passwords within an hour.")
    return count


def _count_failures(key: str) -> int:
    """Count a failure of this hour; 1 without Redis, so that the failure is recorded."""
    hour = int(clock.now().timestamp()) // 3600
    try:
        return limiter.get_storage().incr(f"failed-logins:{key}:{hour}", 3600)
    except RedisUnavailable:
        return 1
