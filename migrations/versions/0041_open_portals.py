"""Sessions of the customer portal, the origins of a service that may embed it, and its actor in the audit log."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0041"
down_revision = "0040"

ORIGINS = "ALTER TABLE services ADD COLUMN portal_origins text[] NOT NULL DEFAULT '{}'"
TABLE = """
CREATE TABLE portal_sessions (  -- a link, and after its exchange the session of a browser
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL,
  service_token_id uuid, operator_id uuid,  -- who made it; both are at home, so neither is a foreign key
  scopes text[] NOT NULL CHECK (cardinality(scopes) > 0), return_url text,
  link_digest bytea NOT NULL, link_expires_at timestamptz NOT NULL,
  session_digest bytea, opened_at timestamptz,
  last_seen_at timestamptz, ended_at timestamptz, created_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, id), CONSTRAINT portal_sessions_link_key UNIQUE (organization_id, link_digest),
  CONSTRAINT portal_sessions_session_key UNIQUE (organization_id, session_digest),
  CHECK ((service_token_id IS NULL) <> (operator_id IS NULL)),
  CHECK ((session_digest IS NULL) = (opened_at IS NULL) AND (session_digest IS NULL) = (last_seen_at IS NULL)));

GRANT SELECT, INSERT, UPDATE ON portal_sessions TO saas_tenant;

GRANT SELECT, INSERT, UPDATE, DELETE ON portal_sessions TO saas_system;
"""
ACTOR = """
-- squawk-ignore ban-drop-constraint
ALTER TABLE audit_events DROP CONSTRAINT audit_events_actor_type_check,
  ADD CONSTRAINT audit_events_actor_type_check
    CHECK (actor_type IN ('user','api_key','operator','system','portal')) NOT VALID;
"""
VALIDATE = "ALTER TABLE audit_events VALIDATE CONSTRAINT audit_events_actor_type_check"
# The log keeps what portals did: its rows, and their hashes, stay.
ACTOR_BEFORE = """
-- squawk-ignore ban-drop-constraint
ALTER TABLE audit_events DROP CONSTRAINT audit_events_actor_type_check,
  ADD CONSTRAINT audit_events_actor_type_check
    CHECK (actor_type IN ('user','api_key','operator','system')) NOT VALID;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for statements in (ORIGINS, TABLE, isolate("portal_sessions"), ACTOR):
        run(statements)
    with op.get_context().autocommit_block():
        op.execute(VALIDATE)


def downgrade() -> None:
    op.execute(ACTOR_BEFORE)
    op.execute("DROP TABLE portal_sessions")
    op.execute("ALTER TABLE services DROP COLUMN portal_origins")
