"""Values under AES-256-GCM, written again with or without the id of their row as associated data."""

import hashlib
import hmac
import os
from collections.abc import Sequence

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


def rewrite(
    connection: sa.Connection, secrets: Sequence[str], rows: Sequence[sa.Row], update: str, *, is_bound: bool
) -> None:
    """Encrypt the values of rows again; a value that no secret opens stays as it is.

    secrets: of SECRET_KEY, the current one first
    rows: with `purpose`, `row_id` and `value`, and the parameters of the update
    update: SQL with :value
    is_bound: whether the new values have the id of the row as associated data, and the old ones have not
    """
    for row in rows:
        nonce, ciphertext = bytes(row.value[:_NONCE_BYTES]), bytes(row.value[_NONCE_BYTES:])
        before, after = _associated_data(row, is_bound=not is_bound), _associated_data(row, is_bound=is_bound)
        for secret in secrets:
            try:
                plain = _cipher(secret, row.purpose).decrypt(nonce, ciphertext, before)
            except InvalidTag:
                continue
            nonce = os.urandom(_NONCE_BYTES)
            value = nonce + _cipher(secrets[0], row.purpose).encrypt(nonce, plain, after)
            connection.execute(sa.text(update), {**row._mapping, "value": value})  # noqa: SLF001 - SQLAlchemy's public name
            break


def _associated_data(row: sa.Row, *, is_bound: bool) -> bytes:
    return f"{row.purpose}\0{row.row_id}".encode() if is_bound else row.purpose.encode()


def _cipher(secret: str, purpose: str) -> AESGCM:
    return AESGCM(hmac.new(secret.encode(), b"encrypt\0" + purpose.encode(), hashlib.sha256).digest())
