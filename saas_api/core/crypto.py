"""Password hashes, keyed digests, encryption with key rotation."""

import contextlib
import hashlib
import hmac
import os
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from saas_api.core.errors import ServiceUnavailable
from saas_api.core.settings import setting

_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_argon2_slots = threading.BoundedSemaphore(4)
_WAIT_SECONDS = 2
_NONCE_BYTES = 12


class DecryptionFailed(Exception):
    """What was encrypted under a secret that SECRET_KEY no longer holds."""


DUMMY_PASSWORD_HASH = (
    "$argon2id$v=19$m=19456,t=2,p=1$RQTBl5eKau7glR0zoGdMjg$IYSUbyc5/BK8oHB8p+EECDBVXQ+dJyH29g2F3EIMXlQ"
)
"""Of a password that was thrown away, with the hasher's parameters: what an unknown person's is compared with."""


def hash_password(password: str) -> str:
    """The argon2id hash of a password, with its parameters.

    raises: Unavailable when four are being computed already and none ends within 2 s
    """
    with _Argon2Slot():
        return _hasher.hash(password)


def verify_password(password_hash: str | None, password: str) -> bool:
    """Compare in the same time whether or not there is a hash to compare with.

    password_hash: None for an unknown user
    """
    with _Argon2Slot():
        try:
            matches = _hasher.verify(password_hash or DUMMY_PASSWORD_HASH, password)
        except (VerificationError, InvalidHashError):
            return False
    return matches and password_hash is not None


def needs_rehash(password_hash: str) -> bool:
    """Whether a hash was made with other parameters than today's."""
    return _hasher.check_needs_rehash(password_hash)


def sha256(text: str) -> bytes:
    """SHA-256 of a token that is random enough to need no slow hash."""
    return hashlib.sha256(text.encode()).digest()


def hmac_hex(purpose: str, *parts: str) -> str:
    """HMAC-SHA-256 under the application's secret, in hex; the purpose keeps one use from serving another."""
    message = "\0".join((purpose, *parts)).encode()
    return hmac.new(_current_secret(setting("SECRET_KEY")).encode(), message, hashlib.sha256).hexdigest()


def api_key_digests(key: str) -> list[tuple[int, bytes]]:
    """Digests of an API key under every pepper, the current one first.

    returns: (version, 32 bytes)
    source: API_KEY_PEPPER is "2:<secret>,1:<secret>"
    """
    peppers = (entry.split(":", 1) for entry in setting("API_KEY_PEPPER").split(","))
    return [
        (int(version), hmac.new(secret.encode(), key.encode(), hashlib.sha256).digest()) for version, secret in peppers
    ]


def encrypt(purpose: str, plain: bytes) -> bytes:
    """Encrypt what has to be read again, under a key derived from SECRET_KEY for this purpose.

    source: AES-256-GCM, a nonce of 96 random bits before the text
    """
    nonce = os.urandom(_NONCE_BYTES)
    key = _derive_key(_current_secret(setting("SECRET_KEY")), purpose)
    return nonce + AESGCM(key).encrypt(nonce, plain, purpose.encode())


def decrypt(purpose: str, sealed: bytes) -> bytes:
    """Read what was encrypted under any of the secrets in SECRET_KEY, the current one first.

    raises: Undecipherable
    """
    nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    for secret in setting("SECRET_KEY").split(","):
        with contextlib.suppress(InvalidTag, ValueError):
            return AESGCM(_derive_key(secret, purpose)).decrypt(nonce, text, purpose.encode())
    raise DecryptionFailed(purpose)


def _derive_key(secret: str, purpose: str) -> bytes:
    return hmac.new(secret.encode(), b"encrypt\0" + purpose.encode(), hashlib.sha256).digest()


def _current_secret(secrets: str) -> str:
    return secrets.split(",", 1)[0]


class _Argon2Slot:  # noqa: N801 - reads as a verb where it is used
    def __enter__(self) -> None:
        if not _argon2_slots.acquire(timeout=_WAIT_SECONDS):
            raise ServiceUnavailable(retry_after=1)

    def __exit__(self, *_: object) -> None:
        _argon2_slots.release()
