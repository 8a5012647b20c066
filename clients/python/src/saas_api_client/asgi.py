"""Guards an ASGI application (Starlette, FastAPI, Quart, Litestar) with the platform's API keys.

```python
app.add_middleware(ApiKeyMiddleware, client=client, policy=Policy(meter="lookups"))
```
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, MutableMapping
from typing import Any, Callable, Optional

from saas_api_client import guards, models
from saas_api_client._clients import AsyncClient
from saas_api_client.guards import KeyRefused, Policy

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

GUARD = "saas_api_client.guard"


class ApiKeyMiddleware:
    """Checks the keys of requests; `request.state.verification` is the answer of the platform.

    policy: for every request; without it only those are checked whose view calls `check` or, in FastAPI, `require_key`
    exempt: paths that need no key even then, such as "/healthz"
    fail_open: let calls pass, unmetered and with None for their verification, while the platform cannot be reached;
        otherwise they get 503
    """

    def __init__(
        self,
        app: Application,
        client: AsyncClient,
        *,
        policy: Optional[Policy] = None,
        exempt: Collection[str] = (),
        fail_open: bool = False,
    ) -> None:
        self._app = app
        self._guard = guards.AsyncGuard(client, fail_open=fail_open)
        self._policy = policy
        self._exempt = exempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[GUARD] = self._guard
        scope.setdefault("state", {})
        response = _Response(scope, send)
        try:
            if self._policy is not None and scope["path"] not in self._exempt:
                await check(scope, self._policy)
            await self._app(scope, receive, response.send)
        except KeyRefused as refused:
            await response.refuse(refused)
        except Exception:  # a canceled call, whose customer has gone, is not a failed one
            response.has_failed = True
            raise
        finally:
            if response.has_failed:
                await self._guard.take_back(find_verification(scope))


async def check(scope: Scope, policy: Policy) -> Optional[models.Verification]:
    """Check the key of a request now, where the quantity is known only in the view.

    scope: of the request; `request.scope` in Starlette and FastAPI
    raises: KeyRefused, for which the middleware answers
    """
    guard: Optional[guards.AsyncGuard] = scope.get(GUARD)
    if guard is None:
        raise RuntimeError("add saas_api_client.asgi.ApiKeyMiddleware to the application")
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    path = getattr(scope.get("route"), "path", None)
    client = scope.get("client")
    caller = guards.Caller(
        headers.get(b"x-api-key"),
        headers.get(b"authorization"),
        client[0] if client else None,
        f"{scope['method']} {path}" if path and "method" in scope else None,
    )
    verification = await guard.check(caller, policy)
    scope["state"]["verification"] = verification
    return verification


def find_verification(scope: Scope) -> Optional[models.Verification]:
    """Return the verification of a request that was checked."""
    verification: Optional[models.Verification] = scope["state"].get("verification")
    return verification


class _Response:
    """What the application sends, with the headers of the rate limits."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.has_failed = False
        self._scope = scope
        self._send = send
        self._has_begun = False

    async def send(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            self._has_begun = True
            self.has_failed = message.get("status", 200) >= 500
            headers = guards.rate_limit_headers(find_verification(self._scope))
            message = {**message, "headers": [*message.get("headers", []), *_encoded(headers)]}
        await self._send(message)

    async def refuse(self, refused: KeyRefused) -> None:
        if self._has_begun:
            raise refused
        if self._scope["type"] == "websocket":
            await self._send({"type": "websocket.close", "code": 1008, "reason": refused.code})
            return
        headers = {**refused.headers, "Content-Length": str(len(refused.body))}
        await self._send({"type": "http.response.start", "status": refused.status, "headers": _encoded(headers)})
        await self._send({"type": "http.response.body", "body": refused.body})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
