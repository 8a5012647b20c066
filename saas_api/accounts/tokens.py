"""Access and refresh tokens."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import jwt as pyjwt
import sqlalchemy as sa
from flask_jwt_extended import JWTManager, create_access_token, create_refresh_token
from flask_jwt_extended import decode_token as decode_jwt
from flask_jwt_extended.exceptions import JWTExtendedException
from sqlalchemy.orm import Session

from saas_api.core import clock, crypto
from saas_api.core.errors import Unauthenticated
from saas_api.core.settings import setting

ACCESS_TOKEN_LIFETIME = timedelta(minutes=15)
_FRESH = timedelta(minutes=10)

jwt = JWTManager()


class InvalidToken(Unauthenticated):
    """Forged, of another kind, or of a session that ended."""

    code, message = "INVALID_TOKEN", "The token is not valid; sign in again."


class TokenExpired(Unauthenticated):
    """Its time is over."""

    code, message = "TOKEN_EXPIRED", "The token has expired; refresh it or sign in again."


class RefreshTokenReused(Unauthenticated):
    """A refresh token came twice: somebody else may hold it, so its session ended."""

    code, message = "TOKEN_REUSED", "This refresh token was used before; sign in again."


@dataclass(frozen=True)
class Tokens:
    """An access token, its end, and what gets the next one."""

    token: str
    refresh_token: str
    expires_at: datetime


def jwt_config(secret: str, issuer: str) -> dict[str, Any]:
    """Flask-JWT-Extended's settings.

    secret: the first of a list signs, each verifies
    issuer: the public address; over https cookies are bound to it alone
    """
    is_secure = issuer.startswith("https://")
    return {
        "JWT_SECRET_KEY": secret.split(",", 1)[0],
        "JWT_ALGORITHM": "HS256",
        "JWT_DECODE_ALGORITHMS": ["HS256"],
        "JWT_ENCODE_ISSUER": issuer,
        "JWT_DECODE_ISSUER": issuer,
        "JWT_ENCODE_AUDIENCE": "saas-api",
        "JWT_DECODE_AUDIENCE": "saas-api",
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


def issue_tokens(user_id: UUID, sid: str, org: str, jti: str, ends_at: datetime, *, is_fresh: bool = False) -> Tokens:
    """A pair of tokens for a session.

    sid: the session, 32 hex digits, as org
    jti: what the refresh token is spent by
    ends_at: the session's end, whatever is refreshed until then
    """
    claims = {"sid": sid, "org": org, "csrf": csrf_token_for(sid, org)}
    access = create_access_token(str(user_id), fresh=_FRESH if is_fresh else False, additional_claims=claims)
    left = ends_at - clock.now()
    renewal = create_refresh_token(str(user_id), expires_delta=left, additional_claims={**claims, "jti": jti})
    return Tokens(access, renewal, clock.now() + ACCESS_TOKEN_LIFETIME)


def issue_fresh_access_token(user_id: UUID, sid: str, org: str) -> str:
    """A further access token of a session whose owner just gave their password again."""
    claims = {"sid": sid, "org": org, "csrf": csrf_token_for(sid, org)}
    return str(create_access_token(str(user_id), fresh=_FRESH, additional_claims=claims))


def csrf_token_for(sid: str, org: str) -> str:
    """What every form of a session carries in one organization.

    The same for the session's whole life, so a renewed token breaks no open page, and another one elsewhere, so a page
    that is open when its reader goes on in another organization does nothing there.
    """
    return crypto.hmac_hex("csrf", UUID(sid).hex, UUID(org).hex)[:32]


@dataclass(frozen=True)
class RefreshClaims:
    """What a refresh token says: whose it is, of which session, where; 32 hex digits each."""

    user: str
    session: str
    organization: str

    @property
    def csrf(self) -> str:
        """What its forms carry."""
        return csrf_token_for(self.session, self.organization)


def read_refresh_claims(refresh_token: str) -> RefreshClaims:
    """What a refresh token says; nothing is spent, and whether its session lives is not asked.

    raises: InvalidToken, TokenExpired
    """
    claims = decode_token(refresh_token, "refresh")
    return RefreshClaims(*(UUID(claims[name]).hex for name in ("sub", "sid", "org")))


_ROTATE = sa.text("""
UPDATE user_sessions SET refresh_digest = :next, previous_digest = refresh_digest, rotated_at = now(),
       last_seen_at = now()
 WHERE id = :sid AND refresh_digest = :mine AND revoked_at IS NULL AND expires_at > now() RETURNING user_id, expires_at
""")
_FIND_SUCCESSOR = sa.text("""
SELECT user_id, expires_at, revoked_at IS NULL AND expires_at > now() AS is_live,
       refresh_digest = :next AND rotated_at > now() - interval '10 s' AS is_twin
  FROM user_sessions WHERE id = :sid FOR UPDATE
""")


def rotate_refresh_token(session: Session, sid: str, jti: str) -> tuple[UUID, str, datetime]:
    """Exchange a refresh token's id for the next one; within 10 s a repeat gets the same successor.

    returns: the person, the next id, the session's end
    raises: InvalidToken, TokenReused
    """
    following = crypto.hmac_hex("refresh", sid, jti)[:32]
    values = {"sid": UUID(sid), "mine": token_digest(jti), "next": token_digest(following)}
    row = session.execute(_ROTATE, values).first()
    if row is None:
        row = session.execute(_FIND_SUCCESSOR, values).first()
        if row is None or not row.is_live:
            raise InvalidToken
        if not row.is_twin:
            raise RefreshTokenReused
    return row.user_id, following, row.expires_at


def token_digest(jti: str) -> bytes:
    """What is stored of a refresh token's id."""
    return hashlib.sha256(jti.encode()).digest()


def decode_token(token: str, kind: str) -> dict[str, Any]:
    """The claims of a token.

    kind: "access" or "refresh"
    raises: InvalidToken, TokenExpired
    """
    try:
        claims: dict[str, Any] = decode_jwt(token)
    except pyjwt.ExpiredSignatureError as cause:
        raise TokenExpired from cause
    except (pyjwt.PyJWTError, JWTExtendedException, ValueError) as cause:
        raise InvalidToken from cause
    if claims.get("type") != kind or not {"sid", "org", "sub", "iat", "jti"} <= claims.keys():
        raise InvalidToken
    if not all(_is_id(claims[name]) for name in ("sid", "org", "sub")):
        raise InvalidToken
    return claims


def _is_id(value: object) -> bool:
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
def _key_by_id(headers: dict[str, Any], _claims_of_token: dict[str, Any]) -> str:
    secrets = _secrets()
    return next((secret for secret in secrets if _key_id(secret) == headers.get("kid")), secrets[0])
