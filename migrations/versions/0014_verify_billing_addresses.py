"""Verify billing addresses of organizations, and delete audit events after a retention period."""

from alembic import op

revision = "0014"
down_revision = "0013"

SCHEMA = """
ALTER TABLE organizations ADD COLUMN billing_email_verified_at timestamptz;

GRANT UPDATE (billing_email_verified_at) ON organizations TO saas_tenant;

-- Events are deleted by the function below alone: it is the only one that sets the parameter and has the right.
REVOKE UPDATE, DELETE ON audit_events FROM saas_system;

DROP TRIGGER audit_events_frozen ON audit_events;

DROP TRIGGER frozen ON audit_chain;

CREATE TRIGGER audit_events_frozen BEFORE UPDATE ON audit_events FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TRIGGER audit_events_kept BEFORE DELETE ON audit_events FOR EACH ROW
  WHEN (current_setting('saas.deletes_expired_events', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION append_only();

CREATE TRIGGER frozen BEFORE UPDATE ON audit_chain FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TRIGGER kept BEFORE DELETE ON audit_chain FOR EACH ROW
  WHEN (current_setting('saas.deletes_expired_events', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION append_only();

-- Row-level security binds the owner, who runs the function, too.
CREATE POLICY expired ON audit_events TO CURRENT_USER
  USING (current_setting('saas.deletes_expired_events', true) = 'on');

-- Deletes at most max_events from the oldest end of the chain, up to the first one that is younger than keep_days.
-- The chain keeps the row of the last deleted event: the hash of the next one covers its hash. No event of the last
-- 90 days can be deleted, whatever the caller says.
CREATE FUNCTION delete_expired_audit_events(keep_days int, max_events int) RETURNS TABLE (deleted bigint, head text)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE last_expired bigint;
BEGIN
  IF keep_days < 90 THEN RAISE EXCEPTION 'audit events are kept for 90 days or more'; END IF;
  PERFORM set_config('saas.deletes_expired_events', 'on', true);
  SELECT c.position - 1 INTO last_expired FROM audit_chain c JOIN audit_events e ON e.id = c.event_id
   WHERE e.at >= now() - make_interval(days => keep_days) ORDER BY c.position LIMIT 1;
  SELECT least(coalesce(last_expired, max(c.position)), min(c.position) + max_events) INTO last_expired
    FROM audit_chain c;
  DELETE FROM audit_events e USING audit_chain c WHERE c.event_id = e.id AND c.position <= last_expired;
  GET DIAGNOSTICS deleted = ROW_COUNT;
  DELETE FROM audit_chain c WHERE c.position < last_expired;
  PERFORM set_config('saas.deletes_expired_events', '', true);
  IF deleted > 0 THEN
    SELECT c.position || ':' || encode(c.hash, 'hex') INTO head FROM audit_chain c WHERE c.position = last_expired;
    RETURN NEXT;
  END IF;
END $$;

REVOKE ALL ON FUNCTION delete_expired_audit_events(int, int) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION delete_expired_audit_events(int, int) TO saas_system;
"""

DOWN = """
DROP FUNCTION delete_expired_audit_events(int, int);

DROP POLICY expired ON audit_events;

DROP TRIGGER kept ON audit_chain;

DROP TRIGGER audit_events_kept ON audit_events;

DROP TRIGGER frozen ON audit_chain;

DROP TRIGGER audit_events_frozen ON audit_events;

CREATE TRIGGER frozen BEFORE UPDATE OR DELETE ON audit_chain FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TRIGGER audit_events_frozen BEFORE UPDATE OR DELETE ON audit_events FOR EACH ROW EXECUTE FUNCTION append_only();

GRANT UPDATE, DELETE ON audit_events TO saas_system;

ALTER TABLE organizations DROP COLUMN billing_email_verified_at;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(SCHEMA, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
