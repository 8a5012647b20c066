"""Requests of the API, counted and sampled in memory, and written every second by a thread.

Calls under a key are counted, all of them. The log has every error and, of the successful requests, the first of each
minute, key, route and status and one in a hundred of the others. A flood of errors does not reach it: of one
organization a process keeps at most MAX_LOGGED in a second.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.exc import OperationalError

from saas_api.core import clock, ids, request_context
from saas_api.core.access import Principal
from saas_api.core.db import cells, tenancy
from saas_api.core.errors import ServiceUnavailable
from saas_api.core.periodic_thread import PeriodicThread
from saas_api.usage import request_counts, request_log
from saas_api.usage.request_counts import LATENCY_BUCKETS, CountedCall
from saas_api.usage.request_log import NewRequest

SAMPLED_ONE_IN = 100
MAX_LOGGED = 50
MAX_PENDING = 10_000
"""Requests for the log that wait for a database which does not respond; what comes then is only counted."""


@dataclass(frozen=True, slots=True)
class RequestDetails:
    """What the log has beside the counts; the origin is that of the current request.

    path: None for the route
    ip: None for the address of the client
    """

    path: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    message_id: UUID | None = None
    ip: str | None = None


_lock = threading.Lock()
_flush_lock = threading.Lock()
_counts: dict[CountedCall, list[int]] = {}
_requests: list[NewRequest] = []
_logged: Counter[UUID] = Counter()
"""Requests for the log by organization since the last flush."""
_seen: set[CountedCall] = set()
"""Successful calls of the current minute of which the log has one."""


def record(
    principal: Principal,
    method: str,
    route: str,
    status: int,
    microseconds: int | None = None,
    describe: Callable[[], RequestDetails] = RequestDetails,
) -> None:
    """Count a call under an API key, and keep it for the log if it belongs there; of a user only the latter.

    route: the rule, such as "/api/v1/messages/send", never the path with its ids
    microseconds: until its response; None where another server answers
    describe: is called for requests that are kept
    """
    if principal.kind not in ("key", "user"):
        return
    at = clock.now()
    call = CountedCall(
        principal.organization_id, int(at.timestamp()) // 60, principal.id, route, method, principal.mode, status
    )
    with _lock:
        if principal.kind == "key":
            count = _counts.get(call)
            if count is None:
                count = _counts[call] = [0] * (1 + LATENCY_BUCKETS)
            count[0] += 1
            if microseconds is not None:
                count[1 + request_counts.latency_bucket(microseconds)] += 1
        is_kept = _is_kept(call)
    if is_kept:
        _keep(principal, call, microseconds, describe())
    _flush_thread.ensure_started()


def _is_kept(call: CountedCall) -> bool:
    """Whether the log has a place for a call; it is taken."""
    if call.status < 400 and not _is_sampled(call):
        return False
    if _logged[call.organization_id] >= MAX_LOGGED or len(_requests) >= MAX_PENDING:
        return False
    _logged[call.organization_id] += 1
    return True


def _is_sampled(call: CountedCall) -> bool:
    if call in _seen:
        return random.randrange(SAMPLED_ONE_IN) == 0  # noqa: S311 - nothing secret depends on it
    if _seen and next(iter(_seen)).minute != call.minute:
        _seen.clear()
    _seen.add(call)
    return True


def _keep(principal: Principal, call: CountedCall, microseconds: int | None, details: RequestDetails) -> None:
    origin, is_key = request_context.current_origin(), principal.kind == "key"
    kept = NewRequest(
        call.organization_id,
        clock.now(),
        ids.new_id(),
        (origin.request_id or "").removeprefix("client:"),
        call.mode,
        call.method,
        call.route,
        _storable(details.path or call.route),
        call.status,
        details.error_code,
        _storable(details.error_message) if details.error_message else None,
        principal.id if is_key else None,
        None if is_key else principal.id,
        details.ip or origin.ip,
        None if microseconds is None else microseconds // 1000,
        details.message_id,
    )
    with _lock:
        _requests.append(kept)


def _storable(text: str) -> str:
    """A text that PostgreSQL stores: a client may send the character NUL in a path."""
    return text[: request_log.MAX_TEXT_LENGTH].replace("\0", "�").encode(errors="replace").decode()


def flush() -> None:
    """Write what is pending, the counts and the log each in one statement.

    What cannot be written stays pending; requests of the log only while the database does not respond, so that one
    which cannot be stored does not hold up the others.
    """
    with _flush_lock:
        with _lock:
            counts, requests = dict(_counts), list(_requests)
            _counts.clear()
            _requests.clear()
            _logged.clear()

        all_owners = {call.organization_id for call in counts} | {one.organization_id for one in requests}

        def write_in_cell(owners: set[UUID]) -> None:
            own_counts = {call: count for call, count in counts.items() if call.organization_id in owners}
            with tenancy.system_session("usage.requests") as session:
                request_counts.write_counts(session, own_counts)
                request_log.write_requests(session, [one for one in requests if one.organization_id in owners])
            for call in own_counts:
                del counts[call]
            requests[:] = [one for one in requests if one.organization_id not in owners]

        try:
            cells.run_for_owners(all_owners, write_in_cell)
        except Exception as error:
            is_away = isinstance(error, OperationalError | ServiceUnavailable)
            _put_back(counts, requests if is_away else [])
            raise


def _put_back(counts: Mapping[CountedCall, Sequence[int]], requests: Sequence[NewRequest]) -> None:
    with _lock:
        for call, count in counts.items():
            since = _counts.get(call, [0] * len(count))
            _counts[call] = [sum(pair) for pair in zip(count, since, strict=True)]
        _requests[:0] = requests


_flush_thread = PeriodicThread(1, flush)
