"""The verbs of sign-up, sign-in and sessions, and their errors."""

from saas_api.auth.service.sessions import (
    InvalidCredentials,
    InvalidTokenFormat,
    NoOrganization,
    Origin,
    Profile,
    SignedIn,
    principal_of,
    profile,
    refresh,
    register,
    sign_in,
    sign_out,
)
from saas_api.auth.service.tokens import InvalidToken, TokenExpired, TokenReused, Tokens, configure, jwt

__all__ = [
    "InvalidCredentials",
    "InvalidToken",
    "InvalidTokenFormat",
    "NoOrganization",
    "Origin",
    "Profile",
    "SignedIn",
    "TokenExpired",
    "TokenReused",
    "Tokens",
    "configure",
    "jwt",
    "principal_of",
    "profile",
    "refresh",
    "register",
    "sign_in",
    "sign_out",
]
