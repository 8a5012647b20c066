"""SQL of row-level security. Migrations are history, so what they use stands beside them and not in the product."""


def isolate(table: str, column: str | None = "organization_id") -> str:
    """SQL that puts a table under row-level security, for its owner too.

    column: the one that names the organization; None leaves the tenant's own policy to the migration
    """
    statements = [f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY", f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"]
    if column:
        owned = f"{column} = (SELECT current_organization())"
        statements.append(f"CREATE POLICY tenant ON {table} TO saas_tenant USING ({owned}) WITH CHECK ({owned})")
    statements.append(f"CREATE POLICY system ON {table} TO saas_system USING (true) WITH CHECK (true)")
    return ";\n".join(statements)
