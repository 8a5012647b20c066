"""The purge deletes expired rows in batches and keeps younger ones."""

from typing import Any

import pytest
from flask import Flask

from saas_api.ops import jobs

ROWS = """
INSERT INTO job_runs (job, scheduled_for, host, state, started_at, finished_at, next_at, lease_token)
SELECT 'ops.purge', now() - n * interval '1 min', 'h', 'done', now() - days * interval '1 day', now(), NULL, NULL
  FROM generate_series(1, 5) n, (VALUES (91), (89)) v (days) WHERE n % 2 = (days = 91)::int;
INSERT INTO mock_sends (message_id, channel, recipient, outcome, created_at)
SELECT gen_random_uuid(), 'sms', '+1', 'delivered', now() - days * interval '1 day'
  FROM generate_series(1, 3), (VALUES (8), (6)) v (days);
INSERT INTO mails (template, recipient, status, finished_at, created_at)
SELECT 'welcome', 'a@b.example', 'sent', now() - days * interval '1 day', now() FROM (VALUES (91), (89)) v (days);
INSERT INTO services (id, name) VALUES ('00000000-0000-7000-8000-00000000000a', 'lookups');
INSERT INTO service_calls (service_id, bucket_at, operation, code, calls, total_us, max_us)
SELECT id, now() - days * interval '1 day', 'verify', 'VALID', 1, 1, 1 FROM services, (VALUES (91), (89)) v (days);
SET LOCAL session_replication_role = replica;
INSERT INTO portal_sessions (organization_id, id, operator_id, scopes, link_digest, link_expires_at, created_at)
SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), '{keys:read}', sha256('x'), now(),
  now() - days * interval '1 day' FROM (VALUES (31), (29)) v (days);
"""


@pytest.mark.parametrize("batch_size", [1, 10_000])
def test_purge_deletes_only_old_rows_in_any_number_of_batches(
    app: Flask, superuser: Any, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr(jobs, "PURGE_BATCH_SIZE", batch_size)
    with superuser, superuser.cursor() as cursor:
        cursor.execute(ROWS)
    with app.app_context():
        deleted = {table: count for table, count in jobs.purge().items() if count}
        assert deleted == {"job_runs": 3, "mock_sends": 3, "service_calls": 1, "mails": 1, "portal_sessions": 1}
        assert set(jobs.purge().values()) == {0}
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT (SELECT count(*) FROM job_runs), (SELECT count(*) FROM mock_sends), count(*) FROM mails")
        assert cursor.fetchone() == (2, 3, 1)
