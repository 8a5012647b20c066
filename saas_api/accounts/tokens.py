"""Access and refresh tokens: JWTs signed with JWT_SECRET."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import jwt as pyjwt
import sqlalchemy as sa
from flask_jwt_extended import JWTManager, create_access_token, create_refresh_token
from flask_jwt_extended import decode_token as decode_jwt
from flask_jwt_extended.exceptions import JWTExtendedException

from saas_api.core import clock, crypto
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Unauthenticated
from saas_api.core.settings import setting

ACCESS_TOKEN_LIFETIME = timedelta(minutes=15)
_FRESH_LIFETIME = timedelta(minutes=10)
_ROTATE = sa.text("""
UPDATE user_sessions SET refresh_digest = :next, previous_digest = refresh_digest, rotated_at = now(),
       last_seen_at = now()
 WHERE id = :sid AND refresh_digest = :current AND revoked_at IS NULL AND expires_at > now()
RETURNING user_id, expires_at
""")
_LOCK_SESSION = sa.text("""
SELECT user_id, expires_at, revoked_at IS NULL AND expires_at > now() AS is_active,
       refresh_digest = :next AND rotated_at > now() - interval '10 s' AS is_repeat
  FROM user_sessions WHERE id = :sid FOR UPDATE
""")

jwt = JWTManager()


class TokenAudience(StrEnum):
    """Where the tokens of a session are accepted: as bearer tokens of the API, or in the cookies of the pages.

    A token of one is refused by the other, so that a stolen cookie is not an API credential.
    """

    API = "saas-api"
    PAGES = "saas-pages"


class InvalidToken(Unauthenticated):
    """The token is forged, of another kind or audience, or its session has ended."""

    code, message = "INVALID_TOKEN", "The token is not valid; sign in again."


class TokenExpired(Unauthenticated):
    """The token has expired."""

    code, message = "TOKEN_EXPIRED", "The token has expired; refresh it or sign in again."


class RefreshTokenReused(Unauthenticated):
    """A refresh token was used twice. It may be stolen, so its session was ended."""

    code, message = "TOKEN_REUSED", "This refresh token was used before; sign in again."


@dataclass(frozen=True)
class Tokens:
    """An access token that expires at `expires_at`, and the refresh token for the next one."""

    token: str
    refresh_token: str
    expires_at: datetime


@dataclass(frozen=True)
class FreshAccessToken:
    """An access token that expires at `expires_at` and counts as recently authenticated until `fresh_until`."""

    token: str
    expires_at: datetime
    fresh_until: datetime


def jwt_config(secret: str, issuer: str) -> dict[str, Any]:
    """Settings of Flask-JWT-Extended.

    secret: JWT_SECRET, a list separated by commas: the first signs, each verifies
    issuer: APP_URL; with https the cookies are secure and bound to the host
    """
    is_secure = issuer.startswith("https://")
    return {
        "JWT_SECRET_KEY": secret.split(",", 1)[0],
        "JWT_ALGORITHM": "HS256",
        "JWT_DECODE_ALGORITHMS": ["HS256"],
        "JWT_ENCODE_ISSUER": issuer,
        "JWT_DECODE_ISSUER": issuer,
        "JWT_DECODE_AUDIENCE": list(TokenAudience),
        "JWT_ACCESS_TOKEN_EXPIRES": ACCESS_TOKEN_LIFETIME,
        "JWT_DECODE_LEEWAY": 5,
        "JWT_TOKEN_LOCATION": ["headers"],
        "JWT_ACCESS_COOKIE_NAME": "__Host-at" if is_secure else "at",
        "JWT_REFRESH_COOKIE_NAME": "__Host-rt" if is_secure else "rt",
        "JWT_COOKIE_SECURE": is_secure,
        "JWT_COOKIE_SAMESITE": "Lax",
        "JWT_COOKIE_CSRF_PROTECT": True,
        "JWT_CSRF_IN_COOKIES": False,
        "JWT_CSRF_CHECK_FORM": True,
    }


def csrf_token_for(session_id: UUID, organization_id: UUID) -> str:
    """The CSRF token of every form of a session in one organization.

    It stays the same while the session lasts, so refreshing a token keeps open pages valid. It differs by organization,
    so a page opened before a switch of the organization cannot act in the other one.
    """
    return crypto.hmac_hex("csrf", session_id.hex, organization_id.hex)[:32]


@dataclass(frozen=True)
class RefreshClaims:
    """Claims of a refresh token; `jti` is its id."""

    user_id: UUID
    session_id: UUID
    organization_id: UUID
    jti: str

    @property
    def csrf(self) -> str:
        """The CSRF token of the session's forms."""
        return csrf_token_for(self.session_id, self.organization_id)


def read_refresh_claims(refresh_token: str, audience: TokenAudience) -> RefreshClaims:
    """The claims of a refresh token, which stays valid; the session may have ended.

    raises: InvalidToken, TokenExpired
    """
    claims = decode_token(refresh_token, "refresh", audience)
    return RefreshClaims(UUID(claims["sub"]), UUID(claims["sid"]), UUID(claims["org"]), claims["jti"])


def decode_token(token: str, kind: str, audience: TokenAudience) -> dict[str, Any]:
    """The claims of a token, after its signature, expiry, kind and audience are checked.

    kind: "access" or "refresh"
    raises: InvalidToken, TokenExpired
    """
    try:
        claims: dict[str, Any] = decode_jwt(token)
    except pyjwt.ExpiredSignatureError as cause:
        raise TokenExpired from cause
    except (pyjwt.PyJWTError, JWTExtendedException, ValueError) as cause:
        raise InvalidToken from cause
    if claims.get("type") != kind or claims.get("aud") != audience:
        raise InvalidToken
    if not {"sid", "org", "sub", "iat", "jti"} <= claims.keys():
        raise InvalidToken
    if not all(_is_uuid(claims[name]) for name in ("sid", "org", "sub")):
        raise InvalidToken
    return claims


@dataclass(frozen=True)
class SessionClaims:
    """What the tokens of a session state about it."""

    user_id: UUID
    session_id: UUID
    organization_id: UUID
    audience: TokenAudience

    def as_dict(self) -> dict[str, Any]:
        """The claims beside those that every JWT has."""
        csrf = csrf_token_for(self.session_id, self.organization_id)
        return {"sid": self.session_id.hex, "org": self.organization_id.hex, "csrf": csrf, "aud": self.audience}


def issue_tokens(claims: SessionClaims, jti: str, expires_at: datetime, *, is_fresh: bool = False) -> Tokens:
    """Issue the tokens of a session.

    jti: id of the refresh token, which `rotate_refresh_token` exchanges
    expires_at: of the session and the refresh token
    is_fresh: the user has just given the password
    """
    access_token = _issue_access_token(claims, is_fresh=is_fresh)
    refresh_token = create_refresh_token(
        str(claims.user_id),
        expires_delta=expires_at - clock.now(),
        additional_claims={**claims.as_dict(), "jti": jti},
    )
    return Tokens(access_token, refresh_token, clock.now() + ACCESS_TOKEN_LIFETIME)


def issue_fresh_access_token(claims: SessionClaims) -> FreshAccessToken:
    """Issue another access token of a session whose user has just given the password again."""
    now = clock.now()
    token = _issue_access_token(claims, is_fresh=True)
    return FreshAccessToken(token, now + ACCESS_TOKEN_LIFETIME, now + _FRESH_LIFETIME)


def issue_impersonation_token(claims: SessionClaims, lifetime: timedelta, operator_session_id: UUID) -> str:
    """Issue the access token with which an operator views an organization; it cannot be refreshed.

    operator_session_id: a session that must be active too
    """
    additional = {**claims.as_dict(), "csrf": "", "looking": True, "operator_sid": operator_session_id.hex}
    return str(create_access_token(str(claims.user_id), expires_delta=lifetime, additional_claims=additional))


def _issue_access_token(claims: SessionClaims, *, is_fresh: bool) -> str:
    fresh = _FRESH_LIFETIME if is_fresh else False
    return str(create_access_token(str(claims.user_id), fresh=fresh, additional_claims=claims.as_dict()))


def rotate_refresh_token(session: SystemSession, session_id: UUID, jti: str) -> tuple[UUID, str, datetime]:
    """Exchange the id of a refresh token for the next one. A repeat within 10 seconds gets the same id again.

    returns: the user's id, the next token id, the expiry of the session
    raises: InvalidToken, RefreshTokenReused
    """
    next_jti = crypto.hmac_hex("refresh", session_id.hex, jti)[:32]
    values = {"sid": session_id, "current": token_digest(jti), "next": token_digest(next_jti)}
    row = session.execute(_ROTATE, values).first()
    if row is None:
        row = session.execute(_LOCK_SESSION, values).first()
        if row is None or not row.is_active:
            raise InvalidToken
        if not row.is_repeat:
            raise RefreshTokenReused
    return row.user_id, next_jti, row.expires_at


def token_digest(jti: str) -> bytes:
    """The stored digest of a refresh token's id."""
    return hashlib.sha256(jti.encode()).digest()


def _is_uuid(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(UUID(value))
    except ValueError:
        return False


def _key_id(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:8]


def _secrets() -> list[str]:
    return [part.strip() for part in setting("JWT_SECRET").split(",")]


@jwt.additional_headers_loader
def _add_key_id(_identity: str) -> dict[str, str]:
    return {"kid": _key_id(_secrets()[0])}


@jwt.decode_key_loader
def _find_key(headers: dict[str, Any], _claims: dict[str, Any]) -> str:
    secrets = _secrets()
    return next((secret for secret in secrets if _key_id(secret) == headers.get("kid")), secrets[0])
