"""People, organizations, API keys and the ledger of jobs. `flask db roles` creates the roles that get the grants."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0001"
down_revision = None

TENANT_TABLES = ("organization_limits", "memberships", "api_keys", "api_key_secrets", "tenancy_canary")
TABLES = (
    "users",
    "organizations",
    "organization_limits",
    "tenancy_canary",
    "user_sessions",
    "memberships",
    "api_keys",
    "api_key_secrets",
    "job_runs",
)
FUNCTIONS = (
    "current_organization",
    "append_only",
)

SCHEMA = """
-- After a transaction the setting is '' and not NULL, hence nullif.
CREATE FUNCTION current_organization() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
  AS $$ SELECT nullif(current_setting('app.organization_id', true), '')::uuid $$;

CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; END $$;

CREATE TABLE users (  -- global; a tenant sees its members only
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text NOT NULL, full_name text NOT NULL DEFAULT '',
  password_hash text NOT NULL, email_verified_at timestamptz, tokens_valid_after timestamptz NOT NULL DEFAULT now(),
  disabled_at timestamptz, created_at timestamptz NOT NULL DEFAULT now());

CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE organizations (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL CHECK (name <> ''), slug text NOT NULL UNIQUE,
  billing_email text, timezone text NOT NULL DEFAULT 'UTC',  -- IANA name, checked by the service
  generation bigint NOT NULL DEFAULT 1, generation_at timestamptz,  -- raised by every change the gate must see at once
  status text NOT NULL DEFAULT 'active' CHECK (status IN ('active','suspended','closed')),  -- the operator's switch
  closed_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());

CREATE TABLE organization_limits (  -- an operator's exception to the plan
  organization_id uuid PRIMARY KEY REFERENCES organizations,
  rate_limit_per_minute int CHECK (rate_limit_per_minute BETWEEN 1 AND 1000000),
  ceilings jsonb NOT NULL DEFAULT '{}', expires_at timestamptz, reason text NOT NULL CHECK (reason <> ''),
  set_by uuid REFERENCES users, created_at timestamptz NOT NULL DEFAULT now());

CREATE TABLE tenancy_canary (organization_id uuid PRIMARY KEY);

-- boot check: 0 rows unbound, 1 as saas_system
INSERT INTO tenancy_canary VALUES (gen_random_uuid());

CREATE TABLE user_sessions (  -- truth; Redis holds the fast copy
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL REFERENCES users,
  refresh_digest bytea NOT NULL, previous_digest bytea, rotated_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  last_seen_at timestamptz NOT NULL, ip inet, user_agent text, revoked_at timestamptz, revoked_reason text,
  created_at timestamptz NOT NULL DEFAULT now());

CREATE INDEX user_sessions_live ON user_sessions (user_id) WHERE revoked_at IS NULL;

CREATE TABLE memberships (
  organization_id uuid NOT NULL REFERENCES organizations, user_id uuid NOT NULL REFERENCES users,
  role text NOT NULL CHECK (role IN ('owner','admin','member','billing','viewer')),
  created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (organization_id, user_id));

CREATE UNIQUE INDEX memberships_one_owner ON memberships (organization_id) WHERE role = 'owner';

CREATE INDEX memberships_user ON memberships (user_id);

CREATE TABLE api_keys (  -- the stable identity: limits, usage, audit hang here
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL DEFAULT gen_random_uuid(),
  name text NOT NULL,
  mode text NOT NULL DEFAULT 'live' CHECK (mode IN ('live','test')), scopes text[] NOT NULL DEFAULT '{}',
  ip_allow cidr[], rate_limit_per_minute int CHECK (rate_limit_per_minute > 0), last_used_at timestamptz,
  created_by uuid REFERENCES users, revoked_at timestamptz, revoked_reason text,
  created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (organization_id, id));

CREATE TABLE api_key_secrets (  -- two slots = at most two live secrets
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(), key_id uuid NOT NULL,
  slot smallint NOT NULL CHECK (slot IN (1,2)), digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
  pepper_version smallint NOT NULL, hint text NOT NULL, last_four char(4) NOT NULL, expires_at timestamptz,
  last_used_at timestamptz,
  last_used_ip inet, revoked_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (organization_id, id),
  FOREIGN KEY (organization_id, key_id) REFERENCES api_keys (organization_id, id));

CREATE UNIQUE INDEX api_key_secrets_slot ON api_key_secrets (organization_id, key_id, slot) WHERE revoked_at IS NULL;

CREATE TABLE job_runs (  -- a slot is a row: never twice, visible, restart-safe
  job text NOT NULL, scheduled_for timestamptz NOT NULL, host text NOT NULL,
  state text NOT NULL DEFAULT 'running' CHECK (state IN ('running','done','failed')),
  attempts smallint NOT NULL DEFAULT 1, next_at timestamptz, lease_token uuid,  -- running without token: work is left
  started_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz, stats jsonb NOT NULL DEFAULT '{}', error text,
  PRIMARY KEY (job, scheduled_for),
  CONSTRAINT job_runs_open_is_scheduled CHECK ((state = 'running') = (next_at IS NOT NULL)),
  CONSTRAINT job_runs_open_is_unfinished CHECK ((state = 'running') = (finished_at IS NULL)),
  CONSTRAINT job_runs_leased CHECK (lease_token IS NULL OR state = 'running'));

CREATE INDEX job_runs_open ON job_runs (next_at) WHERE state = 'running';
"""

MEMBERS_ONLY = """
CREATE POLICY members ON users FOR SELECT TO saas_tenant USING (EXISTS (SELECT FROM memberships m
  WHERE m.user_id = users.id))
"""

GRANTS = """
GRANT SELECT ON organizations, organization_limits, tenancy_canary TO saas_tenant;
GRANT SELECT (id, email, full_name, email_verified_at, created_at) ON users TO saas_tenant;
GRANT UPDATE (name, slug, billing_email, timezone, generation, generation_at, updated_at) ON organizations TO
saas_tenant;
GRANT SELECT, INSERT, UPDATE ON api_keys, api_key_secrets TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON memberships TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON users, organizations, organization_limits, tenancy_canary, user_sessions,
memberships, api_keys, api_key_secrets, job_runs TO saas_system;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    run(SCHEMA)
    run(isolate("organizations", column="id"))
    run(isolate("users", column=None))
    run(MEMBERS_ONLY)
    for table in TENANT_TABLES:
        run(isolate(table))
    run(GRANTS)


def downgrade() -> None:
    op.execute("DROP POLICY members ON users")
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}()")
