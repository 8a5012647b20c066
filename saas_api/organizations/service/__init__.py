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
    put_onboarding_away,
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
from saas_api.organizations.service.standing import NotSuspendable, NotSuspended, check_reason, resume, suspend

__all__ = [
    "CannotRemoveSelf",
    "InvitationExists",
    "LastOwner",
    "NoSuchInvitation",
    "NoSuchMember",
    "NoSuchOrganization",
    "NotSuspendable",
    "NotSuspended",
    "UserExists",
    "accept",
    "cancel",
    "change",
    "change_role",
    "changed",
    "check_reason",
    "create",
    "decline",
    "get",
    "invitation_of",
    "invite",
    "publish_generations",
    "put_onboarding_away",
    "remove",
    "resume",
    "suspend",
    "transfer",
]
