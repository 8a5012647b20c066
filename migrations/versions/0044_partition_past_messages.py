"""Give messages of past months a table with a partition for each month; a job moves them there.

`messages` is not touched, so calls go on while this runs.
"""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0044"
down_revision = "0043"

# The table is new, which squawk does not see of one with partitions.
TABLE = """
-- squawk-ignore-file require-concurrent-index-creation
CREATE TABLE past_messages (LIKE messages INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
  CONSTRAINT past_messages_are_finished CHECK (finished_at IS NOT NULL),
  CONSTRAINT past_messages_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES organizations,
  CONSTRAINT past_messages_organization_id_api_key_id_fkey FOREIGN KEY (organization_id, api_key_id)
    REFERENCES api_keys (organization_id, id),
  PRIMARY KEY (organization_id, id, accepted_at)) PARTITION BY RANGE (accepted_at);

CREATE INDEX past_messages_list ON past_messages (organization_id, accepted_at DESC, id DESC);

CREATE INDEX past_messages_test ON past_messages (organization_id, accepted_at DESC, id DESC) WHERE mode = 'test';

CREATE INDEX past_messages_status ON past_messages (organization_id, status, accepted_at DESC, id DESC);

CREATE INDEX past_messages_recipient ON past_messages (organization_id, recipient);

GRANT SELECT ON past_messages TO saas_tenant;

GRANT SELECT, INSERT, UPDATE, DELETE ON past_messages TO saas_system;

CREATE TABLE past_messages_default PARTITION OF past_messages DEFAULT;

SELECT protect_partition('past_messages', 'past_messages_default');
"""
# A migration that changes columns of messages changes those of past_messages, too, and makes the view again.
VIEW = """
CREATE VIEW all_messages WITH (security_invoker = true) AS
SELECT * FROM messages UNION ALL SELECT * FROM past_messages;

GRANT SELECT ON all_messages TO saas_tenant, saas_system;
"""
# No message is older than its organization.
PARTITIONS = """
SET LOCAL ROLE saas_system;

SELECT create_partition('past_messages', month::date) FROM (
  SELECT least(min(created_at), now()) AT TIME ZONE 'UTC' AS first FROM organizations) o,
  generate_series(date_trunc('month', first), now() AT TIME ZONE 'UTC' + interval '2 months', '1 month') month;

RESET ROLE;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for statements in (TABLE, isolate("past_messages"), VIEW, PARTITIONS):
        run(statements)


def downgrade() -> None:
    statements = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM archived_partitions WHERE table_name = 'past_messages') THEN
    RAISE EXCEPTION 'partitions are archived: restore them before the downgrade';
  END IF;
END $$;

SET LOCAL ROLE saas_system;

INSERT INTO messages SELECT * FROM past_messages;

RESET ROLE;

DROP VIEW all_messages;

DROP TABLE past_messages;
"""
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
