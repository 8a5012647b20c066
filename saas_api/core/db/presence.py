"""Which organizations are present in a database: rows that are left of the others are hidden by row-level security.

An organization is absent where it is not, and while it is being moved also where it comes from and goes to. The
policies are restrictive: they hold for requests and for work across organizations alike, and refuse late writes. Tables
from which nothing may be deleted are not moved, and have none.
"""

from collections.abc import Sequence
from typing import Any

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
_HIDDEN = sa.text("""SELECT tablename FROM pg_policies
 WHERE schemaname = 'public' AND policyname = 'present' AND qual LIKE '%absent_organizations%'""")
_MAY_BE_HIDDEN = sa.text("SELECT has_table_privilege('saas_tenant', to_regclass('absent_organizations'), 'SELECT')")
# An index look-up for each row, or one hash table for a statement that reads many. A tenant sees its own row only.
_IS_PRESENT = """current_setting('app.sees_absent', true) = 'on'
  OR NOT EXISTS (SELECT FROM absent_organizations a WHERE a.id = {id})"""
_MOVER = roles.MOVER
_GRANTS = (
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {_MOVER}",
    f"GRANT SELECT, UPDATE, USAGE ON ALL SEQUENCES IN SCHEMA public TO {_MOVER}",
)


def protect_tables(connection: sa.Connection) -> None:
    """Hide absent organizations in every table, and let the mover move them, as the owner. Idempotent.

    It commits after each table, because a policy needs the table for itself for a moment.
    """
    if not connection.scalar(_MAY_BE_HIDDEN):
        return  # after a downgrade
    for table in find_unprotected(connection):
        connection.exec_driver_sql(f"DROP POLICY IF EXISTS present ON {table.name}")
        connection.exec_driver_sql(
            f"CREATE POLICY present ON {table.name} AS RESTRICTIVE TO {', '.join(roles.ROLES)} "
            f"USING ({_IS_PRESENT.format(id=f'{table.name}.{table.organization_column}')})"
        )
        connection.commit()
    connection.exec_driver_sql("DROP FUNCTION IF EXISTS hidden_organizations()")  # of the policies before 0027
    for statement in _GRANTS:
        connection.exec_driver_sql(statement)
    connection.commit()


def find_unprotected(connection: sa.Connection) -> Sequence[sa.Row[Any]]:
    """Tables, as of TENANT_TABLES, in which rows of absent organizations are visible."""
    hidden = set(connection.scalars(_HIDDEN))
    tables = connection.execute(sa.text(TENANT_TABLES)).all()
    return [table for table in tables if table.name not in hidden and not table.is_append_only]
