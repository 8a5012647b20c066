"""Which organizations are present in a database: rows that are left of the others are hidden by row-level security.

An organization is absent where it is not, and while it is being moved also where it comes from and goes to. The
policies are restrictive: they hold for requests and for work across organizations alike, and refuse late writes. Tables
from which nothing may be deleted are not moved, and have none.
"""

import sqlalchemy as sa

from saas_api.core.db import roles

TENANT_TABLES = """
SELECT c.relname AS name, a.attname AS organization_column,
  NOT has_table_privilege('saas_system', c.oid, 'DELETE') AS is_append_only FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
  AND a.attname = CASE c.relname WHEN 'organizations' THEN 'id' ELSE 'organization_id' END
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND c.relname <> 'tenancy_canary' ORDER BY c.relname = 'organizations' DESC, c.relname"""
"""Tables with rows of organizations, organizations themselves first; partitions are part of their table."""
_POLICIES = "SELECT tablename FROM pg_policies WHERE schemaname = 'public' AND policyname = 'present'"
_MOVER = roles.MOVER
_GRANTS = (
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {_MOVER}",
    f"GRANT SELECT, UPDATE, USAGE ON ALL SEQUENCES IN SCHEMA public TO {_MOVER}",
)


def protect_tables(connection: sa.Connection) -> None:
    """Hide absent organizations in every table, and let the mover move them, as the owner. Idempotent.

    It commits after each table, because a policy needs the table for itself for a moment.
    """
    if connection.scalar(sa.text("SELECT to_regprocedure('hidden_organizations()')")) is None:
        return  # after a downgrade
    protected = set(connection.scalars(sa.text(_POLICIES)))
    for table in connection.execute(sa.text(TENANT_TABLES)).all():
        if table.name not in protected and not table.is_append_only:
            is_hidden = f"{table.organization_column} = ANY ((SELECT hidden_organizations())::uuid[])"
            connection.exec_driver_sql(
                f"CREATE POLICY present ON {table.name} AS RESTRICTIVE TO {', '.join(roles.ROLES)} "
                f"USING (({is_hidden}) IS NOT TRUE)"
            )
            connection.commit()
    for statement in _GRANTS:
        connection.exec_driver_sql(statement)
    connection.commit()
