"""The verbs of sign-up, sign-in, sessions, passwords and one-time links, and their errors."""

from saas_api.auth.service.entrance import NoOrganization, register, sign_in
from saas_api.auth.service.joining import join
from saas_api.auth.service.looking import NotAnOperator, look_at
from saas_api.auth.service.passwords import change_password, request_password_reset, reset_password
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
from saas_api.auth.service.tokens import InvalidToken, TokenExpired, TokenReused, Tokens, configure, jwt
from saas_api.auth.service.verification import AlreadyVerified, request_verification, verify_email

__all__ = [
    "AlreadyVerified",
    "InvalidCredentials",
    "InvalidToken",
    "InvalidTokenFormat",
    "NoOrganization",
    "NoSuchSession",
    "NotAnOperator",
    "Origin",
    "Profile",
    "SignedIn",
    "TokenExpired",
    "TokenReused",
    "Tokens",
    "change_password",
    "configure",
    "join",
    "jwt",
    "list_sessions",
    "look_at",
    "principal_of",
    "profile",
    "refresh",
    "register",
    "request_password_reset",
    "request_verification",
    "reset_password",
    "revoke",
    "sign_in",
    "sign_out",
    "switch",
    "verify_email",
]
