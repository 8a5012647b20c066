"""Lists and charts of an organization with many messages: they read what they show, and not its whole history."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from saas_api.core.db.pagination import PageRequest
from saas_api.dashboard import home
from saas_api.messages import messages
from saas_api.messages.messages import MessageFilter
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.large_tables import ROWS, insert_rows
from tests.support.query_plans import collect_scans

UNUSED_NUMBER, USED_NUMBER = "+4741234567", "+4741111111"
# One message a minute; the first of each thousand is of a test key, the second failed, the third was canceled.
_MESSAGES = """
INSERT INTO messages (organization_id, id, mode, channel, recipient, body, status, accepted_at, finished_at, currency)
SELECT %s, gen_random_uuid(), CASE n %% 1000 WHEN 0 THEN 'test' ELSE 'live' END, 'sms',
  CASE n WHEN 7 THEN %s ELSE '+4742' || 100000 + n END, 'Hello',
  CASE n %% 1000 WHEN 1 THEN 'failed' WHEN 2 THEN 'canceled' ELSE 'delivered' END, at, at, 'USD'
FROM generate_series(0, 19999) n, LATERAL (SELECT %s + n * interval '1 minute') t (at)"""

_QUEUED = """
INSERT INTO messages (organization_id, id, mode, channel, recipient, body, status, lease_token, accepted_at, next_at,
  currency)
SELECT %s, gen_random_uuid(), 'live', 'sms', '+4742123456', 'Hello', CASE n WHEN 0 THEN 'sending' ELSE 'queued' END,
  CASE n WHEN 0 THEN gen_random_uuid() END, at, at, 'USD'
FROM generate_series(0, 19999) n, LATERAL (SELECT %s + n * interval '1 minute') t (at)"""


@pytest.fixture
def acme(context: Flask, superuser: Any) -> BillingOrganization:
    """An organization with 20,000 messages since the start of April."""
    organization = create_organization()
    insert_rows(superuser, "messages", _MESSAGES, str(organization.id), USED_NUMBER, day(1))
    return organization


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (MessageFilter(mode="test"), 20),
        (MessageFilter(status="failed"), 20),
        (MessageFilter(status="canceled"), 20),
        (MessageFilter(status="queued"), 0),
        (MessageFilter(recipient=USED_NUMBER), 1),
        (MessageFilter(recipient=UNUSED_NUMBER), 0),
    ],
)
def test_rare_messages_are_found_without_reading_the_others(
    app: Flask, acme: BillingOrganization, filters: MessageFilter, count: int
) -> None:
    """F6: every message with the wanted mode, status or recipient fits on the page."""
    with collect_scans(app, "messages") as scans, acme.transaction() as session:
        page = messages.list_messages(session, acme.id, filters, PageRequest(50))
    assert len(page.items) == count
    assert sum(scan.rows_read for scan in scans) < ROWS / 100


def test_messages_of_each_status_are_counted_without_reading_the_others(app: Flask, acme: BillingOrganization) -> None:
    """Two statuses have few messages, one more than are counted, and three have none."""
    none = dict.fromkeys(("queued", "sending", "sent"), 0)
    with collect_scans(app, "messages") as scans, acme.transaction() as session:
        live = messages.count_by_status(session, acme.id, MessageFilter(mode="live", status="failed"))
        test = messages.count_by_status(session, acme.id, MessageFilter(mode="test"))
    assert live == {**none, "delivered": 1001, "failed": 20, "canceled": 20}
    assert test == {**none, "delivered": 20, "failed": 0, "canceled": 0}
    assert sum(scan.rows_read for scan in scans) < ROWS / 10


def test_long_queue_is_not_read_to_count_it(app: Flask, acme: BillingOrganization, superuser: Any) -> None:
    """Another organization waits with 20,000 messages, one of which is being sent."""
    other = create_organization("Other")
    insert_rows(superuser, "messages", _QUEUED, str(other.id), day(1))
    with collect_scans(app, "messages") as scans, other.transaction() as session:
        counts = messages.count_by_status(session, other.id, MessageFilter(mode="live"))
    assert counts == {"queued": 1001, "sent": 0, "delivered": 0, "failed": 0, "canceled": 0}
    assert sum(scan.rows_read for scan in scans) < ROWS / 10


def test_chart_of_the_last_hour_reads_its_messages_once(app: Flask, acme: BillingOrganization) -> None:
    """F5: one message in each minute but the first, of which half is over, and none from after the hour."""
    now = day(1) + timedelta(minutes=ROWS - 10, seconds=30)
    with collect_scans(app, "messages") as scans, acme.transaction() as session:
        minutes = home.messages_per_minute(session, acme.id, "live", now)
    assert sum(scan.rows_read for scan in scans) < 2 * home.LIVE_MINUTES
    assert [minute for minute, _ in minutes] == [_minute(now, -ago) for ago in reversed(range(home.LIVE_MINUTES))]
    assert [count for _, count in minutes] == [0, *[1] * (home.LIVE_MINUTES - 1)]


def _minute(at: datetime, offset: int) -> datetime:
    return at.replace(second=0, microsecond=0) + timedelta(minutes=offset)
