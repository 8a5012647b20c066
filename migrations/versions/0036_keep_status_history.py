"""The status of each component by day, and incidents with their updates, for the status page."""

from alembic import op

revision = "0036"
down_revision = "0035"

UP = """
-- Minutes in each state, of UTC days. Kept for 90 days.
CREATE TABLE status_days (
  component text, day date, ok_minutes int NOT NULL, slow_minutes int NOT NULL, down_minutes int NOT NULL,
  PRIMARY KEY (component, day));

CREATE TABLE incidents (
  id uuid PRIMARY KEY, title text NOT NULL CHECK (length(title) BETWEEN 1 AND 120),
  components text[] NOT NULL CHECK (cardinality(components) BETWEEN 1 AND 10), created_at timestamptz NOT NULL);

CREATE TABLE incident_updates (
  id uuid PRIMARY KEY, incident_id uuid NOT NULL REFERENCES incidents,
  status text NOT NULL CHECK (status IN ('investigating','identified','monitoring','resolved')),
  body text NOT NULL CHECK (length(body) BETWEEN 1 AND 2000), at timestamptz NOT NULL);

CREATE INDEX incident_updates_of_incident ON incident_updates (incident_id, id);

GRANT SELECT, INSERT, UPDATE, DELETE ON status_days TO saas_system;

GRANT SELECT, INSERT ON incidents, incident_updates TO saas_system;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute("DROP TABLE incident_updates, incidents, status_days")
