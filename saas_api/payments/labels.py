"""What invoices, payments and refunds are called in sentences, such as those of the audit log."""

from collections.abc import Collection
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

_FIND = sa.text("""
WITH named AS (
  SELECT * FROM unnest(CAST(:organizations AS uuid[]), CAST(:ids AS uuid[])) AS n (organization_id, id))
SELECT i.id, i.number FROM named JOIN invoices i USING (organization_id, id) WHERE i.number IS NOT NULL
UNION ALL
SELECT p.id, 'for ' || i.number FROM named JOIN payments p USING (organization_id, id)
  JOIN invoices i ON i.organization_id = p.organization_id AND i.id = p.invoice_id
UNION ALL
SELECT r.id, 'for ' || i.number FROM named JOIN refunds r USING (organization_id, id)
  JOIN payments p ON p.organization_id = r.organization_id AND p.id = r.payment_id
  JOIN invoices i ON i.organization_id = p.organization_id AND i.id = p.invoice_id
""")


def find_labels(session: Session, subjects: Collection[tuple[UUID, UUID]]) -> dict[str, str]:
    """The number of an invoice, and "for INV-1" of a payment or refund of it, by id; others are left out.

    subjects: pairs of organization and id
    """
    if not subjects:
        return {}
    values = {"organizations": [pair[0] for pair in subjects], "ids": [pair[1] for pair in subjects]}
    return {str(subject_id): label for subject_id, label in session.execute(_FIND, values) if label}
