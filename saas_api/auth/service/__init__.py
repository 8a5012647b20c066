"""The verbs of sign-up, sign-in, sessions, passwords and one-time links, and their errors."""

from saas_api.auth.service.account.person import last_seen, rename, revoke_others
from saas_api.auth.service.entrance import NoOrganization, register, sign_in
from saas_api.auth.service.joining import Invited, join, look_at_invitation
from saas_api.auth.service.looking import NotAnOperator, look_at
from saas_api.auth.service.passwords import change_password, prove_again, request_password_reset, reset_password
from saas_api.auth.service.sessions import (
    InvalidCredentials,
    InvalidTokenFormat,
    NoSuchSession,
    Origin,
    Profile,
    SignedIn,
    list_sessions,
    principal_of,
    profile,
    refresh,
    revoke,
    sign_out,
    switch,
)
from saas_api.auth.service.tokens import (
    InvalidToken,
    TokenExpired,
    TokenReused,
    Tokens,
    Visit,
    configure,
    csrf_of,
    jwt,
    visit_of,
)
from saas_api.auth.service.verification import AlreadyVerified, request_verification, verify_email

__all__ = [
    "AlreadyVerified",
    "InvalidCredentials",
    "InvalidToken",
    "InvalidTokenFormat",
    "Invited",
    "NoOrganization",
    "NoSuchSession",
    "NotAnOperator",
    "Origin",
    "Profile",
    "SignedIn",
    "TokenExpired",
    "TokenReused",
    "Tokens",
    "Visit",
    "change_password",
    "configure",
    "csrf_of",
    "join",
    "jwt",
    "last_seen",
    "list_sessions",
    "look_at",
    "look_at_invitation",
    "principal_of",
    "profile",
    "prove_again",
    "refresh",
    "register",
    "rename",
    "request_password_reset",
    "request_verification",
    "reset_password",
    "revoke",
    "revoke_others",
    "sign_in",
    "sign_out",
    "switch",
    "verify_email",
    "visit_of",
]
