"""Operators, one-time tokens, invitations, the audit log and the platform's own mail."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0005"
down_revision = "0004"

TENANT_TABLES = ("invitations", "audit_events", "mails")
TABLES = ("operators", "user_tokens", "invitations", "audit_events", "mails")

SCHEMA = """
CREATE TABLE operators (user_id uuid PRIMARY KEY REFERENCES users,
  role text NOT NULL CHECK (role IN ('support','admin')),
  created_at timestamptz NOT NULL DEFAULT now());

CREATE TABLE user_tokens (  -- one-time links; only the digest is kept
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL REFERENCES users,
  purpose text NOT NULL CHECK (purpose IN ('verify_email','reset_password')), digest bytea NOT NULL UNIQUE,
  expires_at timestamptz NOT NULL, used_at timestamptz, created_at timestamptz NOT NULL DEFAULT now());

CREATE TABLE invitations (
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL DEFAULT gen_random_uuid(),
  email text NOT NULL,
  role text NOT NULL CHECK (role IN ('admin','member','billing','viewer')), digest bytea NOT NULL UNIQUE,
  invited_by uuid NOT NULL REFERENCES users, expires_at timestamptz NOT NULL, accepted_at timestamptz,
  revoked_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (organization_id, id));

CREATE UNIQUE INDEX invitations_one_pending ON invitations (organization_id, lower(email))
  WHERE accepted_at IS NULL AND revoked_at IS NULL;

CREATE TABLE audit_events (  -- organization_id NULL: platform-wide act of an operator
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, organization_id uuid REFERENCES organizations,
  actor_type text NOT NULL CHECK (actor_type IN ('user','api_key','operator','system')), actor_id text,
  on_behalf_of uuid,
  action text NOT NULL, target_type text NOT NULL, target_id text NOT NULL, data jsonb NOT NULL DEFAULT '{}',
  reason text, request_id text, ip inet, at timestamptz NOT NULL);

CREATE INDEX audit_events_tenant ON audit_events (organization_id, id DESC);

CREATE TRIGGER audit_events_frozen BEFORE UPDATE OR DELETE ON audit_events FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TABLE mails (  -- the platform's own mail; content erased once handed over
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), organization_id uuid REFERENCES organizations, template text NOT NULL,
  recipient text NOT NULL, subject text, text_body text, html_body text,
  status text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued','sending','sent','failed')),
  attempts smallint NOT NULL DEFAULT 0, interruptions smallint NOT NULL DEFAULT 0, next_at timestamptz,
  lease_token uuid,
  error_code text, finished_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT mails_open_is_scheduled CHECK ((status IN ('queued','sending')) = (next_at IS NOT NULL)),
  CONSTRAINT mails_open_is_unfinished CHECK ((status IN ('queued','sending')) = (finished_at IS NULL)),
  CONSTRAINT mails_leased CHECK ((status = 'sending') = (lease_token IS NOT NULL)));

CREATE INDEX mails_due ON mails (next_at) WHERE status IN ('queued','sending');
"""

GRANTS = """
GRANT SELECT, INSERT ON audit_events TO saas_tenant;
GRANT SELECT, INSERT, UPDATE ON invitations TO saas_tenant;
GRANT INSERT ON mails TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON operators, user_tokens, invitations, audit_events, mails TO saas_system;
GRANT SELECT ON SEQUENCE audit_events_id_seq TO saas_system;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    run(SCHEMA)
    for table in TENANT_TABLES:
        run(isolate(table))
    run(GRANTS)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
