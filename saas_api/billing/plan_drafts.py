"""Drafts of plans: plan files that operators edit, preview and publish.

There is one draft for each version that it follows, and one for each new plan. Every save raises its revision. Whoever
saves, publishes or discards a draft names the revision that they saw, so that nobody overwrites what they have not
seen.
"""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select, text

from saas_api.accounts import audit
from saas_api.accounts.audit import Actor, OperatorContext
from saas_api.billing import plans
from saas_api.billing.models import PlanDraft
from saas_api.billing.plans import PublishResult
from saas_api.billing.rating import plan_file
from saas_api.core import clock
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, ValidationFailed

_INSERT = text("""
INSERT INTO plan_drafts (id, document, revision, updated_by, updated_at)
VALUES (:id, CAST(:document AS json), 1, :by, :at) ON CONFLICT DO NOTHING RETURNING revision""")
_UPDATE = text("""
UPDATE plan_drafts SET document = CAST(:document AS json), revision = revision + 1, updated_by = :by, updated_at = :at
WHERE id = :id AND revision = :revision RETURNING revision""")


class DraftChanged(Conflict):
    """Another operator saved, published or discarded the draft in the meantime."""

    code, message = "PLAN_DRAFT_CHANGED", "Another operator changed this draft in the meantime."


def find_draft(session: SystemSession, draft_id: str) -> PlanDraft | None:
    """A stored draft.

    draft_id: the version that it follows, or the code of a new plan
    """
    return session.get(PlanDraft, draft_id)


def list_drafts(session: SystemSession) -> Sequence[PlanDraft]:
    """Every stored draft, by its id."""
    return session.scalars(select(PlanDraft).order_by(PlanDraft.id)).all()


def find_document(session: SystemSession, draft_id: str) -> tuple[dict[str, Any], int] | None:
    """The plan file of a draft and its revision; the file of the version and 0 where no draft is stored."""
    draft = find_draft(session, draft_id)
    if draft:
        return draft.document, draft.revision
    if draft_id in plans.get_versions(session, [draft_id]):
        return plan_file.to_document(plans.get_plan_content(session, draft_id)), 0
    return None


def plan_of_draft(draft_id: str) -> str:
    """Code of the plan of a draft."""
    return plans.plan_for_version(draft_id) or draft_id


def save_draft(session: SystemSession, draft_id: str, document: dict[str, Any], revision: int, actor: Actor) -> int:
    """Store a draft, whether or not it could be published.

    revision: the one that the operator saw; 0 for none
    returns: the new revision
    raises: DraftChanged; ValidationFailed for a file of another plan
    """
    if document.get("plan") != plan_of_draft(draft_id):
        raise ValidationFailed.at_field("document", f'"plan" must stay "{plan_of_draft(draft_id)}".')
    values = {
        "id": draft_id,
        "document": json.dumps(document),
        "revision": revision,
        "by": UUID(actor.id or ""),
        "at": clock.now(),
    }
    saved: int | None = session.scalar(_UPDATE if revision else _INSERT, values)
    if saved is None:
        raise DraftChanged
    audit.record_event(session, None, actor, "plan.draft_saved", ("plan", draft_id), {"revision": saved})
    return saved


def discard_draft(session: SystemSession, draft_id: str, operator: OperatorContext, *, revision: int) -> None:
    """Delete a draft.

    raises: DraftChanged
    """
    _take(session, draft_id, revision)
    data = {"reason": operator.reason}
    audit.record_event(session, None, operator.actor, "plan.draft_discarded", ("plan", draft_id), data)


def publish_draft(draft_id: str, operator: OperatorContext, *, revision: int, previous: str | None) -> PublishResult:
    """Publish a draft as the next version of its plan and delete it, in a transaction of its own.

    previous: the newest version that the operator compared the draft with; None for none
    raises: DraftChanged, also when a newer version was published meanwhile; as `plans.publish_plan`
    """
    with plans.catalogue_session() as session:
        document = _take(session, draft_id, revision)
        result = plans.publish_in_session(session, document, operator.actor, reason=operator.reason)
        if result.previous != previous:
            raise DraftChanged
    plans.finish_publication(result)
    return result


def _take(session: SystemSession, draft_id: str, revision: int) -> dict[str, Any]:
    """Delete a draft and return its document; a concurrent save waits, and then finds none."""
    statement = text("DELETE FROM plan_drafts WHERE id = :id AND revision = :revision RETURNING document")
    row = session.execute(statement, {"id": draft_id, "revision": revision}).first()
    if row is None:
        raise DraftChanged
    document: dict[str, Any] = row.document
    return document
