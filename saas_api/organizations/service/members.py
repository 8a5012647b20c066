"""Members and their roles: exactly one of them owns the organization, whoever acts at the same moment."""

from dataclasses import replace
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import access, clock
from saas_api.core.access import PERMISSIONS, Principal
from saas_api.core.errors import Conflict, Forbidden, Invalid, NotFound
from saas_api.organizations import queries
from saas_api.organizations.models import Invitation, Membership
from saas_api.organizations.queries import Member
from saas_api.organizations.service import audit


class NoSuchMember(NotFound):
    """Nobody with that id belongs to the organization."""


class LastOwner(Conflict):
    """The organization would be left without its owner."""

    code, message = "LAST_OWNER", "An organization has exactly one owner; transfer the ownership first."
    constraint = "memberships_keep_owner"


class CannotRemoveSelf(Conflict):
    """Somebody would put themselves out."""

    code, message = "CANNOT_REMOVE_SELF", "You cannot remove yourself; another admin can."


def change_role(session: Session, principal: Principal, user_id: UUID, role: str) -> Member:
    """Give a member another role; it acts on their next request.

    role: any but "owner", which is transferred
    raises: NoSuchMember, LastOwner
    """
    held = hold(session, principal, "members:promote", user_id)
    if held.role == "owner":
        raise LastOwner
    before, held.role = held.role, role
    session.flush()
    if role not in PERMISSIONS["members:write"]:
        _withdraw_invitations(session, held)
    if before != role:
        change = {"before": {"role": before}, "after": {"role": role}}
        _record(session, principal, "member.role_changed", user_id, change)
    return find(session, principal.organization_id, user_id)


def transfer(session: Session, principal: Principal, user_id: UUID) -> None:
    """Make another member the owner; the one who was becomes an admin.

    raises: NotFresh, NoSuchMember, Invalid when that member is the owner already
    """
    access.check_fresh(principal)
    if user_id == principal.id:
        raise Invalid.at("user_id", "You are the owner already.")
    heir = hold(session, principal, "members:promote", user_id)
    owner = session.get_one(Membership, (principal.organization_id, principal.id))
    before = heir.role
    owner.role = "admin"
    session.flush()  # never two at once: the index is checked row by row
    heir.role = "owner"
    session.flush()
    change = {
        "before": {"owner": str(principal.id), "role": before},
        "after": {"owner": str(user_id), "former_owner_role": "admin"},
    }
    _record(session, principal, "member.ownership_transferred", user_id, change)


def remove(session: Session, principal: Principal, user_id: UUID) -> None:
    """Put a member out: their tokens are refused on the next request, and their invitations lead nowhere.

    raises: CannotRemoveSelf, NoSuchMember, LastOwner
    """
    if user_id == principal.id:
        raise CannotRemoveSelf
    held = hold(session, principal, "members:write", user_id)
    if held.role == "owner":
        raise LastOwner
    member = find(session, principal.organization_id, user_id)
    _withdraw_invitations(session, held)
    session.delete(held)
    session.flush()
    _record(session, principal, "member.removed", user_id, {"before": {"role": member.role, "email": member.email}})


def find(session: Session, organization_id: UUID, user_id: UUID) -> Member:
    """A member.

    raises: NoSuchMember
    """
    member = queries.find_member(session, organization_id, user_id)
    if member is None:
        raise NoSuchMember
    return member


def hold(session: Session, principal: Principal, permission: str, user_id: UUID) -> Membership:
    """A member whose row and the caller's stay as they are until this transaction ends; the caller is judged again.

    user_id: may be the caller's own
    raises: Forbidden when the caller lost the permission meanwhile, NoSuchMember
    """
    statement = (
        sa.select(Membership)
        .where(
            Membership.organization_id == principal.organization_id,
            Membership.user_id.in_((principal.id, user_id)),
        )
        .order_by(Membership.user_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    held = {membership.user_id: membership for membership in session.scalars(statement)}
    if principal.id not in held:
        raise Forbidden
    access.authorise(replace(principal, role=held[principal.id].role), access.Access(permission=permission))
    if user_id not in held:
        raise NoSuchMember
    return held[user_id]


def _withdraw_invitations(session: Session, inviter: Membership) -> None:
    statement = sa.update(Invitation).where(
        Invitation.organization_id == inviter.organization_id,
        Invitation.invited_by == inviter.user_id,
        queries.is_pending(),
    )
    session.execute(statement.values(revoked_at=clock.now()))


def _record(
    session: Session, principal: Principal, action: str, user_id: UUID, change: dict[str, dict[str, str]]
) -> None:
    target = ("user", user_id)
    audit.record(session, principal.organization_id, audit.actor_of(principal), action, target, change)


def put_onboarding_away(session: Session, principal: Principal) -> None:
    """Remember that a member does not want to see the first steps any more."""
    who = Membership.organization_id == principal.organization_id, Membership.user_id == principal.id
    session.execute(sa.update(Membership).where(*who).values(onboarding_dismissed_at=clock.now()))
