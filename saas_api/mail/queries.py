"""Whose mails are due."""

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core.lease import SOON_SECONDS, Due

AT_MOST_ORGANIZATIONS = 200
_DUE = sa.text("""
SELECT organization_id, extract(epoch FROM min(next_at) - now())::float8 AS seconds FROM mails
 WHERE status IN ('queued', 'sending') AND next_at < now() + make_interval(secs => :soon)
 GROUP BY organization_id ORDER BY 2 LIMIT :limit
""")


def due(session: Session) -> Due[UUID | None]:
    """Organizations with a mail that is due, the longest waiting first; None for mails of nobody's organization.

    session: of the system
    """
    rows = session.execute(_DUE, {"soon": SOON_SECONDS, "limit": AT_MOST_ORGANIZATIONS}).all()
    later = [row.seconds for row in rows if row.seconds > 0]
    return Due([row.organization_id for row in rows if row.seconds <= 0], min(later, default=None))
