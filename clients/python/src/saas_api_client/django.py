"""Guards a Django project with the platform's API keys.

```python
MIDDLEWARE = [..., "saas_api_client.django.ApiKeyMiddleware"]
SAAS_API = {"CLIENT": Client("https://platform.example.com", os.environ["SAAS_API_TOKEN"])}

@require_key(permission="lookups:write", meter="lookups")
def create(request):
    return JsonResponse({"customer": request.verification.organization_id})
```
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import Any, Callable, Optional, TypeVar

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from saas_api_client import guards, models
from saas_api_client.guards import KeyRefused, Policy

View = TypeVar("View", bound=Callable[..., Any])

GUARD = "saas_api_client.guard"


class ApiKeyMiddleware:
    """Answers refused requests, and adds the headers of rate limits to the others.

    Settings in SAAS_API:

    CLIENT: with the token of the service
    FAIL_OPEN: let calls pass, unmetered and with None for `request.verification`, while the platform cannot be reached;
        otherwise they get 503
    POLICY: parameters of `Policy` for every request, so that no view needs `require_key`
    EXEMPT: paths that need no key even then, such as "/healthz"
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        options = settings.SAAS_API
        self._get_response = get_response
        self._guard = guards.Guard(options["CLIENT"], fail_open=options.get("FAIL_OPEN", False))
        self._policy = Policy(**options["POLICY"]) if "POLICY" in options else None
        self._exempt = frozenset(options.get("EXEMPT", ()))

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request.META[GUARD] = self._guard
        response = self._get_response(request)
        verification: Optional[models.Verification] = getattr(request, "verification", None)
        if response.status_code >= 500:
            self._guard.take_back(verification)
        for name, value in guards.rate_limit_headers(verification).items():
            response[name] = value
        return response

    def process_view(self, request: HttpRequest, *_: Any) -> Optional[HttpResponse]:
        """Check every request, where the settings have a policy."""
        if self._policy is None or request.path in self._exempt:
            return None
        try:
            check(request, self._policy)
        except KeyRefused as refused:
            return _refuse(refused)
        return None

    def process_exception(self, _request: HttpRequest, exception: Exception) -> Optional[HttpResponse]:
        """Answer a request that a view's check refused."""
        return _refuse(exception) if isinstance(exception, KeyRefused) else None


def require_key(**policy: Any) -> Callable[[View], View]:
    """Return a decorator for views, also asynchronous ones; its parameters are those of `Policy`.

    It needs `ApiKeyMiddleware`.
    """
    checked = Policy(**policy)

    def decorate(view: View) -> View:
        if inspect.iscoroutinefunction(view):

            @functools.wraps(view)
            async def call_async(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
                await asyncio.to_thread(check, request, checked)
                return await view(request, *args, **kwargs)

            return call_async  # type: ignore[return-value] # takes and returns what the view does

        @functools.wraps(view)
        def call(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            check(request, checked)
            return view(request, *args, **kwargs)

        return call  # type: ignore[return-value] # takes and returns what the view does

    return decorate


def check(request: HttpRequest, policy: Policy) -> Optional[models.Verification]:
    """Check the key of a request now, where the quantity is known only in the view.

    raises: KeyRefused, for which the middleware answers
    """
    guard: Optional[guards.Guard] = request.META.get(GUARD)
    if guard is None:
        raise RuntimeError("add saas_api_client.django.ApiKeyMiddleware to MIDDLEWARE")
    route = getattr(request.resolver_match, "route", None)
    caller = guards.Caller(
        request.headers.get("X-API-Key"),
        request.headers.get("Authorization"),
        request.META.get("REMOTE_ADDR"),
        f"{request.method} /{route}" if route is not None else None,
    )
    verification = guard.check(caller, policy)
    request.verification = verification
    return verification


def _refuse(refused: KeyRefused) -> HttpResponse:
    return HttpResponse(refused.body, status=refused.status, headers=refused.headers)
