"""The two clients. Both offer the same operations; they differ in how they send and wait."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import sys
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Callable, Generic, Optional, TypeVar, Union, overload

import httpx

from saas_api_client import _exchange, _operations
from saas_api_client._exchange import API_PREFIX, Operation, Request

if sys.version_info >= (3, 10):
    from typing import ParamSpec
else:
    from typing_extensions import ParamSpec

P = ParamSpec("P")
T = TypeVar("T")

VERSION = "0.1.0"


@dataclass(frozen=True)
class Settings:
    """Where the platform is and who calls it.

    token: service token, API key or access token
    timeout_seconds: of one attempt
    total_timeout_seconds: of a call with all its attempts and waits
    """

    base_url: str
    token: str
    timeout_seconds: float
    total_timeout_seconds: float

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"the platform's URL begins with http:// or https://, unlike {self.base_url!r}")
        if not re.fullmatch(r"[!-~]+", self.token):
            raise ValueError("the token is empty, or has characters that a token cannot have, such as a line break")

    def httpx_arguments(self, request: Request) -> dict[str, Any]:
        """Return the arguments with which httpx sends a request."""
        headers = {"Authorization": f"Bearer {self.token}", "User-Agent": f"saas-api-client-python/{VERSION}"}
        return {
            "method": request.method,
            "url": f"{self.base_url}{API_PREFIX}{request.path}",
            "params": request.query,
            "json": request.body,
            "content": request.content,
            "headers": {**headers, **(request.headers or {})},
            "follow_redirects": False,
        }


class Method(Generic[P, T]):
    """An operation as a method of the client, which waits for the answer."""

    def __init__(self, build: Callable[P, Operation[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, owner: None, kind: Any) -> Method[P, T]: ...
    @overload
    def __get__(self, owner: Union[Client, Resource], kind: Any) -> Callable[P, T]: ...
    def __get__(self, owner: Union[Client, Resource, None], kind: Any) -> Union[Method[P, T], Callable[P, T]]:
        if owner is None:
            return self
        client = owner.client if isinstance(owner, Resource) else owner

        @functools.wraps(self._build)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return client.call(self._build(*args, **kwargs))

        return call


class AsyncMethod(Generic[P, T]):
    """An operation as a method of the asynchronous client, to be awaited."""

    def __init__(self, build: Callable[P, Operation[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, owner: None, kind: Any) -> AsyncMethod[P, T]: ...
    @overload
    def __get__(self, owner: Union[AsyncClient, AsyncResource], kind: Any) -> Callable[P, Awaitable[T]]: ...
    def __get__(
        self, owner: Union[AsyncClient, AsyncResource, None], kind: Any
    ) -> Union[AsyncMethod[P, T], Callable[P, Awaitable[T]]]:
        if owner is None:
            return self
        client = owner.client if isinstance(owner, AsyncResource) else owner

        @functools.wraps(self._build)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return await client.call(self._build(*args, **kwargs))

        return call


class Resource:
    """Operations on objects of one type."""

    def __init__(self, client: Client) -> None:
        self.client = client


class AsyncResource:
    """Operations on objects of one type."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client


class Keys(Resource):
    """API keys of the customer whose access token the client has."""

    create = Method(_operations.create_key)
    list = Method(_operations.list_keys)
    get = Method(_operations.get_key)
    update = Method(_operations.update_key)
    rotate = Method(_operations.rotate_key)
    revoke = Method(_operations.revoke_key)


class AsyncKeys(AsyncResource):
    """API keys of the customer whose access token the client has."""

    create = AsyncMethod(_operations.create_key)
    list = AsyncMethod(_operations.list_keys)
    get = AsyncMethod(_operations.get_key)
    update = AsyncMethod(_operations.update_key)
    rotate = AsyncMethod(_operations.rotate_key)
    revoke = AsyncMethod(_operations.revoke_key)


class Messages(Resource):
    """Messages of the customer whose API key the client has."""

    send = Method(_operations.send_message)
    list = Method(_operations.list_messages)
    get = Method(_operations.get_message)
    cancel = Method(_operations.cancel_message)


class AsyncMessages(AsyncResource):
    """Messages of the customer whose API key the client has."""

    send = AsyncMethod(_operations.send_message)
    list = AsyncMethod(_operations.list_messages)
    get = AsyncMethod(_operations.get_message)
    cancel = AsyncMethod(_operations.cancel_message)


class Usage(Resource):
    """Usage of the customer whose API key or access token the client has."""

    get = Method(_operations.get_usage)
    timeseries = Method(_operations.get_usage_timeseries)


class AsyncUsage(AsyncResource):
    """Usage of the customer whose API key or access token the client has."""

    get = AsyncMethod(_operations.get_usage)
    timeseries = AsyncMethod(_operations.get_usage_timeseries)


class Client:
    """Calls the platform and waits for its answer. Threads may share one.

    base_url: of the platform, such as "https://platform.example.com"
    token: a service token (`svc_...`), a customer's API key (`sk_...`), or an access token
    timeout_seconds: of one attempt
    total_timeout_seconds: of a call with all its attempts and the waits between them
    http_client: sends the requests instead of one made here; closing it is yours
    """

    verify = Method(_operations.verify)
    hold = Method(_operations.hold)
    get_hold = Method(_operations.get_hold)
    settle = Method(_operations.settle)
    release = Method(_operations.release)
    record = Method(_operations.record)
    reverse = Method(_operations.reverse)
    set_external_id = Method(_operations.set_external_id)

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        timeout_seconds: float = 5.0,
        total_timeout_seconds: float = 15.0,
        http_client: Optional[httpx.Client] = None,
    ) -> None:
        self.settings = Settings(base_url.rstrip("/"), token, timeout_seconds, total_timeout_seconds)
        self.keys = Keys(self)
        self.messages = Messages(self)
        self.usage = Usage(self)
        self._is_own = http_client is None
        self._http = http_client or httpx.Client()
        self._process_id = os.getpid()

    def call(self, operation: Operation[T]) -> T:
        """Return the answer to an operation.

        raises: ApiError, PlatformUnreachableError
        """
        if self._is_own and self._process_id != os.getpid():  # a fork must not share connections with its parent
            self._http, self._process_id = httpx.Client(), os.getpid()
        settings = self.settings
        steps = _exchange.exchange(operation.request, settings.timeout_seconds, settings.total_timeout_seconds)
        outcome: _exchange.Outcome = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, _exchange.Wait):
                    time.sleep(step.seconds)
                    outcome = None
                else:
                    outcome = self._send(operation.request, step.timeout_seconds)
        except StopIteration as end:
            return _exchange.parse(operation, end.value)

    def _send(self, request: _exchange.Request, timeout_seconds: float) -> _exchange.Outcome:
        try:
            return self._http.request(**self.settings.httpx_arguments(request), timeout=timeout_seconds)
        except httpx.RequestError as error:
            return error

    def copy(self) -> Client:
        """Return a client of the same platform with connections of its own, or with the given `http_client`."""
        return Client(
            self.settings.base_url,
            self.settings.token,
            timeout_seconds=self.settings.timeout_seconds,
            total_timeout_seconds=self.settings.total_timeout_seconds,
            http_client=None if self._is_own else self._http,
        )

    def close(self) -> None:
        """Close the connections."""
        if self._is_own:
            self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


class AsyncClient:
    """Calls the platform from asyncio. Tasks of one event loop may share one.

    base_url: of the platform, such as "https://platform.example.com"
    token: a service token (`svc_...`), a customer's API key (`sk_...`), or an access token
    timeout_seconds: of one attempt
    total_timeout_seconds: of a call with all its attempts and the waits between them
    http_client: sends the requests instead of one made here; closing it is yours
    """

    verify = AsyncMethod(_operations.verify)
    hold = AsyncMethod(_operations.hold)
    get_hold = AsyncMethod(_operations.get_hold)
    settle = AsyncMethod(_operations.settle)
    release = AsyncMethod(_operations.release)
    record = AsyncMethod(_operations.record)
    reverse = AsyncMethod(_operations.reverse)
    set_external_id = AsyncMethod(_operations.set_external_id)

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        timeout_seconds: float = 5.0,
        total_timeout_seconds: float = 15.0,
        http_client: Optional[httpx.AsyncClient] = None,
    ) -> None:
        self.settings = Settings(base_url.rstrip("/"), token, timeout_seconds, total_timeout_seconds)
        self.keys = AsyncKeys(self)
        self.messages = AsyncMessages(self)
        self.usage = AsyncUsage(self)
        self._is_own = http_client is None
        self._http = http_client or httpx.AsyncClient()

    async def call(self, operation: Operation[T]) -> T:
        """Return the answer to an operation.

        raises: ApiError, PlatformUnreachableError
        """
        settings = self.settings
        steps = _exchange.exchange(operation.request, settings.timeout_seconds, settings.total_timeout_seconds)
        outcome: _exchange.Outcome = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, _exchange.Wait):
                    await asyncio.sleep(step.seconds)
                    outcome = None
                else:
                    outcome = await self._send(operation.request, step.timeout_seconds)
        except StopIteration as end:
            return _exchange.parse(operation, end.value)

    async def _send(self, request: _exchange.Request, timeout_seconds: float) -> _exchange.Outcome:
        try:
            return await self._http.request(**self.settings.httpx_arguments(request), timeout=timeout_seconds)
        except httpx.RequestError as error:
            return error

    async def aclose(self) -> None:
        """Close the connections."""
        if self._is_own:
            await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.aclose()
