"""Password hashes, keyed digests, encryption with key rotation."""

import contextlib
import functools
import hashlib
import hmac
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from saas_api.core.errors import ServiceUnavailable
from saas_api.core.settings import setting

DUMMY_PASSWORD_HASH = (
    "$argon2id$v=19$m=19456,t=2,p=1$RQTBl5eKau7glR0zoGdMjg$IYSUbyc5/BK8oHB8p+EECDBVXQ+dJyH29g2F3EIMXlQ"  # noqa: S105 - the hash of no account
)
"""Hash of a discarded random password with the hasher's parameters; verified when the user is unknown."""
LOST = -1
"""Position of the secret of a value that no secret in SECRET_KEY decrypts."""
_MAX_CONCURRENT_HASHES = 4
_MAX_WAIT_SECONDS = 2
_NONCE_BYTES = 12

_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_hash_slots = threading.BoundedSemaphore(_MAX_CONCURRENT_HASHES)


class DecryptionFailed(Exception):
    """No secret in SECRET_KEY decrypts the value."""


def hash_password(password: str) -> str:
    """The argon2id hash of a password, with its parameters.

    raises: ServiceUnavailable when four hashes are being computed and none ends within 2 seconds
    """
    with _hash_slot():
        return _hasher.hash(password)


def verify_password(password_hash: str | None, password: str) -> bool:
    """Compare a password with a hash; takes the same time for an unknown user.

    password_hash: None for an unknown user, whose password never matches
    raises: ServiceUnavailable as `hash_password`
    """
    with _hash_slot():
        try:
            matches = _hasher.verify(password_hash or DUMMY_PASSWORD_HASH, password)
        except (VerificationError, InvalidHashError):
            return False
    return matches and password_hash is not None


def needs_rehash(password_hash: str) -> bool:
    """Whether the parameters of a hash differ from the current ones."""
    return _hasher.check_needs_rehash(password_hash)


def sha256(text: str) -> bytes:
    """SHA-256 of a random token, which needs no slow hash."""
    return hashlib.sha256(text.encode()).digest()


def hmac_hex(purpose: str, *parts: str) -> str:
    """HMAC-SHA-256 in hex, keyed by the current secret of SECRET_KEY.

    purpose: separates uses, so that a value made for one is not valid for another
    """
    message = "\0".join((purpose, *parts)).encode()
    return hmac.new(_current_secret(setting("SECRET_KEY")).encode(), message, hashlib.sha256).hexdigest()


def keyed_digests(secret: str) -> list[tuple[int, bytes]]:
    """Digests of an API key or service token under every pepper, the current one first.

    API_KEY_PEPPER lists the peppers: "2:<secret>,1:<secret>".
    returns: pairs of the pepper's version and 32 bytes
    """
    data = secret.encode()
    return [(version, hmac.digest(key, data, "sha256")) for version, key in _read_peppers(setting("API_KEY_PEPPER"))]


@functools.lru_cache(maxsize=4)
def _read_peppers(peppers: str) -> list[tuple[int, bytes]]:
    entries = (entry.split(":", 1) for entry in peppers.split(","))
    return [(int(version), pepper.encode()) for version, pepper in entries]


def pepper_versions() -> list[int]:
    """Versions in API_KEY_PEPPER, the current one first."""
    return [int(entry.partition(":")[0]) for entry in setting("API_KEY_PEPPER").split(",")]


def encrypt(purpose: str, plain: bytes, *, row_id: str) -> bytes:
    """Encrypt with AES-256-GCM under a key derived from the current secret of SECRET_KEY for this purpose.

    row_id: identifies the row that holds the value, so that a value copied into another row does not decrypt
    returns: a random nonce of 12 bytes, then the ciphertext
    """
    nonce = os.urandom(_NONCE_BYTES)
    key = _derive_key(_current_secret(setting("SECRET_KEY")), purpose)
    return nonce + AESGCM(key).encrypt(nonce, plain, _associated_data(purpose, row_id))


def decrypt(purpose: str, encrypted: bytes, *, row_id: str) -> bytes:
    """Decrypt the result of `encrypt` with any secret of SECRET_KEY, the current one first.

    raises: DecryptionFailed
    """
    return _try_secrets(purpose, encrypted, row_id)[1]


def count_by_secret(purpose: str, encrypted: Iterable[tuple[str, bytes]]) -> Counter[int]:
    """Number of results of `encrypt` by the position in SECRET_KEY of what decrypts them; LOST where nothing does.

    encrypted: pairs of the row's id and the value
    """
    counts: Counter[int] = Counter()
    for row_id, value in encrypted:
        position = LOST
        with contextlib.suppress(DecryptionFailed):
            position = _try_secrets(purpose, value, row_id)[0]
        counts[position] += 1
    return counts


def _try_secrets(purpose: str, encrypted: bytes, row_id: str) -> tuple[int, bytes]:
    associated_data = _associated_data(purpose, row_id)
    nonce, ciphertext = encrypted[:_NONCE_BYTES], encrypted[_NONCE_BYTES:]
    for position, secret in enumerate(setting("SECRET_KEY").split(",")):
        with contextlib.suppress(InvalidTag, ValueError):
            return position, AESGCM(_derive_key(secret, purpose)).decrypt(nonce, ciphertext, associated_data)
    raise DecryptionFailed(purpose)


def _associated_data(purpose: str, row_id: str) -> bytes:
    return f"{purpose}\0{row_id}".encode()


def _derive_key(secret: str, purpose: str) -> bytes:
    return hmac.new(secret.encode(), b"encrypt\0" + purpose.encode(), hashlib.sha256).digest()


def _current_secret(secrets: str) -> str:
    return secrets.split(",", 1)[0]


@contextlib.contextmanager
def _hash_slot() -> Iterator[None]:
    if not _hash_slots.acquire(timeout=_MAX_WAIT_SECONDS):
        raise ServiceUnavailable(retry_after=1)
    try:
        yield
    finally:
        _hash_slots.release()
