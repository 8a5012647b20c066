"""A form that is sent twice gets the answer of the first: a double click, a reload, a lost answer."""

import contextlib
from collections.abc import Callable
from typing import Any

import redis
from flask import Response, make_response

from saas_api.core import idempotency
from saas_api.core.access import Principal
from saas_api.core.db import session
from saas_api.core.errors import Unavailable
from saas_api.core.idempotency import InProgress, Kept, KeyReused, Once, Replay
from saas_api.core.queue import client
from saas_api.core.render.pages import Page

_KEPT_HEADERS = ("Location", "Vary")
_REMEMBERED_SECONDS = 86_400


def answer_once(
    principal: Principal, key: str, fingerprint: bytes, run: Callable[[], Any], *, is_bound: bool
) -> Response:
    """Run a view, or give the answer it gave before under this key.

    is_bound: the request is bound to the principal's organization, where the answer is kept with its effect; else,
        for operators, only where it led to is kept
    raises: InProgress, KeyReused, Unavailable
    """
    if not is_bound:
        return _once_for_an_operator(principal, key, fingerprint, run)
    once = Once(principal.organization_id, key, fingerprint, 200, lambda _data: b"")
    try:
        idempotency.hold(session(), once)
    except Replay as replay:
        return Response(replay.kept.body, replay.kept.status, dict(replay.kept.headers), mimetype="text/html")
    answer = make_response(run())
    if answer.status_code < 400:
        own = {name: value for name, value in answer.headers.items() if name in _KEPT_HEADERS}
        is_secret = isinstance(answer, Page) and answer.is_secret
        idempotency.keep(session(), once, Kept(answer.status_code, answer.get_data(), own), is_secret=is_secret)
    return answer


def _once_for_an_operator(principal: Principal, key: str, fingerprint: bytes, run: Callable[[], Any]) -> Response:
    name, print_of = f"{principal.id}:{key}", fingerprint.hex()
    try:
        is_first = client().set(name, print_of, nx=True, ex=_REMEMBERED_SECONDS)
        kept = b"" if is_first else client().get(name) or b""
    except redis.RedisError as cause:
        raise Unavailable from cause
    if not is_first:
        known, _, led_to = (kept.decode() if isinstance(kept, bytes) else kept).partition(" ")
        if known != print_of:
            raise KeyReused
        if led_to:
            return Response("", 303, {"Location": led_to})
        raise InProgress(retry_after=1)
    try:
        answer = make_response(run())
    except BaseException:
        _keep_address(name, None)
        raise
    led_to = answer.headers.get("Location", "") if answer.status_code < 400 else ""
    _keep_address(name, f"{print_of} {led_to}" if led_to else None)
    return answer


def _keep_address(name: str, address: str | None) -> None:
    with contextlib.suppress(redis.RedisError):
        if address:
            client().set(name, address, ex=_REMEMBERED_SECONDS)
        else:
            client().delete(name)
