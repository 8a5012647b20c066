"""Compares accepted messages with stored messages, usage, events, deliveries and received webhooks."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from standardwebhooks import Webhook

from tests.faults.load import Load, Tenant
from tests.faults.stack import Stack, wait_until
from tests.support.http_receiver import Received, Receiver

OLD_SECONDS = 300
FINAL = ("delivered", "failed", "canceled", "sent")
_OPEN = """
SELECT (SELECT count(*) FROM messages WHERE next_at IS NOT NULL)
     + (SELECT count(*) FROM webhook_deliveries WHERE next_at IS NOT NULL)
     + (SELECT count(*) FROM mails WHERE next_at IS NOT NULL)
"""
_MESSAGES = "SELECT id, mode, recipient, segments, status FROM messages WHERE organization_id = ANY (%s::uuid[])"
_USAGE = """
SELECT m.id, m.mode, m.status, m.channel, m.segments,
       coalesce(sum(u.quantity) FILTER (WHERE u.source = 'messages.send'), 0), count(u.id) FILTER
       (WHERE u.source = 'messages.send'), count(u.id) FILTER (WHERE u.source = 'reversal')
  FROM messages m LEFT JOIN usage_events u ON u.organization_id = m.organization_id AND u.message_id = m.id
 GROUP BY m.organization_id, m.id
"""
_EVENTS = """
SELECT m.id, m.status, array_agg(e.type ORDER BY e.type) FILTER (WHERE e.id IS NOT NULL)
  FROM messages m LEFT JOIN events e ON e.organization_id = m.organization_id AND e.subject_id = m.id
 WHERE EXISTS (SELECT FROM webhook_endpoints w WHERE w.organization_id = m.organization_id)
 GROUP BY m.organization_id, m.id
"""
_UNDELIVERED = """
SELECT count(*) FROM events e JOIN webhook_endpoints w USING (organization_id)
 WHERE e.type = ANY (w.event_types) AND (SELECT count(*) FROM webhook_deliveries d WHERE d.endpoint_id = w.id
   AND d.event_id = e.id AND d.cause = 'auto') <> CASE WHEN w.mode = e.mode THEN 1 ELSE 0 END
"""
_ATTEMPTS = """
SELECT count(*) FROM webhook_deliveries d WHERE d.attempts <> (SELECT count(*) FROM webhook_attempts a
  WHERE a.organization_id = d.organization_id AND a.delivery_id = d.id)
  OR EXISTS (SELECT FROM webhook_attempts a WHERE a.organization_id = d.organization_id AND a.delivery_id = d.id
    AND a.outcome = 'started')
"""
_OUTSIDE = """
SELECT coalesce(sum(s.calls - 1), 0),
       (SELECT coalesce(sum(interruptions + greatest(attempts - 1, 0)), 0) FROM messages),
       count(*) FILTER (WHERE m.id IS NULL)
  FROM mock_sends s LEFT JOIN messages m ON m.id = s.message_id
"""
_TRIES = """
SELECT d.event_id, d.status, d.attempts FROM webhook_deliveries d JOIN webhook_endpoints w ON w.id = d.endpoint_id
 WHERE w.url = %s
"""


def settle(stack: Stack, seconds: float = 120) -> None:
    """Wait until every message, delivery and mail has a final status."""
    wait_until(stack.is_ready, 60, "ready")
    wait_until(lambda: stack.rows(_OPEN)[0][0] == 0, seconds, "everything final")


def find_violations(stack: Stack, load: Load, receivers: Mapping[str, Receiver] | None = None) -> list[str]:
    """Return every violation; none when each accepted message has exactly one final status, usage and event."""
    violations = list(_messages(stack, load))
    violations += [f"refused: {text}" for text in load.refused]
    violations += list(_usage(stack))
    violations += list(_events(stack))
    for tenant in load.tenants:
        violations += list(_received(stack, tenant, receivers or {}))
    repeats, allowed, unknown_ids = stack.rows(_OUTSIDE)[0]
    if repeats > allowed or unknown_ids:
        violations.append(
            f"the provider received {repeats} repeated calls, {allowed} explained, and {unknown_ids} unknown ids"
        )
    return violations


def _messages(stack: Stack, load: Load) -> Any:
    organizations = [str(UUID(tenant.organization_id.removeprefix("org_"))) for tenant in load.tenants]
    rows = {f"msg_{UUID(str(row[0])).hex}": row[1:] for row in stack.rows(_MESSAGES, organizations)}
    accepted = Counter(message.message_id for message in load.journal)
    yield from (f"accepted twice: {message_id}" for message_id, times in accepted.items() if times > 1)
    yield from (f"invented: {message_id}" for message_id in rows.keys() - accepted.keys())
    for message in load.journal:
        row = rows.get(message.message_id)
        if row is None:
            yield f"lost: {message}"
        elif row[:3] != (message.mode, message.to, message.segments) or row[3] not in FINAL:
            yield f"differs: {message} {row}"


def _usage(stack: Stack) -> Any:
    for message_id, mode, status, _channel, segments, quantity, events, reversals in stack.rows(_USAGE):
        expected = (segments, 1, int(status == "failed")) if mode == "live" else (0, 0, 0)
        if (quantity, events, reversals) != expected:
            yield f"usage of {message_id} ({mode}, {status}): {quantity} in {events} events, {reversals} reversals"


def _events(stack: Stack) -> Any:
    for message_id, status, kinds in stack.rows(_EVENTS):
        if kinds != [f"message.{status}"]:
            yield f"events of {message_id} ({status}): {kinds}"
    for name, sql in (("deliveries", _UNDELIVERED), ("attempts", _ATTEMPTS)):
        if count := stack.rows(sql)[0][0]:
            yield f"{count} {name} are not as they should be"


def _received(stack: Stack, tenant: Tenant, receivers: Mapping[str, Receiver]) -> Any:
    for url, secrets in tenant.secrets.items():
        receiver = receivers[url]
        tries = {f"evt_{UUID(str(row[0])).hex}": row[1:] for row in stack.rows(_TRIES, url)}
        delivered = {event_id for event_id, (status, _) in tries.items() if status == "delivered"}
        bodies: dict[str, bytes] = {}
        for event_id, times in Counter(receiver.ids).items():
            if times > tries.get(event_id, ("", 0))[1]:
                yield f"{event_id} came {times} times to {url}, more often than it was sent"
        for request in receiver.received:
            if not _is_signed(secrets[json.loads(request.body)["mode"]], request):
                yield f"{request.webhook_id} came to {url} with a wrong signature or an old timestamp"
            if bodies.setdefault(request.webhook_id, request.body) != request.body:
                yield f"{request.webhook_id} came with two bodies"
        if missing := delivered - bodies.keys():
            yield f"{len(missing)} deliveries never arrived at {url}"


def _is_signed(secret: str, request: Received) -> bool:
    """Whether the signature was valid at arrival; `verify` of the library would compare with the present time."""
    signed_at = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), UTC)
    expected = Webhook(secret).sign(request.webhook_id, signed_at, request.body.decode())
    return (
        expected in request.headers["webhook-signature"].split(" ")
        and abs(request.at - signed_at.timestamp()) < OLD_SECONDS
    )


def report(name: str, stack: Stack, load: Load, violations: Sequence[str]) -> None:
    """Print the figures."""
    lost = sum(violation.startswith("lost") for violation in violations)
    doubled = sum(violation.startswith(("accepted twice", "invented")) for violation in violations)
    print(f"\n{name}: {stack.kills} kills, {len(load.journal)} accepted, {lost} lost, {doubled} doubled")  # noqa: T201 - the figures are what the round is for
