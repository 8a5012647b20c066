"""The verbs of organizations, their members and invitations, and their errors; `audit` writes the log of acts."""

from saas_api.organizations.service.invitations import (
    InvitationExists,
    NoSuchInvitation,
    UserExists,
    accept,
    cancel,
    decline,
    invitation_of,
    invite,
)
from saas_api.organizations.service.members import (
    CannotRemoveSelf,
    LastOwner,
    NoSuchMember,
    change_role,
    remove,
    transfer,
)
from saas_api.organizations.service.organizations import (
    NoSuchOrganization,
    change,
    changed,
    create,
    get,
    publish_generations,
)

__all__ = [
    "CannotRemoveSelf",
    "InvitationExists",
    "LastOwner",
    "NoSuchInvitation",
    "NoSuchMember",
    "NoSuchOrganization",
    "UserExists",
    "accept",
    "cancel",
    "change",
    "change_role",
    "changed",
    "create",
    "decline",
    "get",
    "invitation_of",
    "invite",
    "publish_generations",
    "remove",
    "transfer",
]
