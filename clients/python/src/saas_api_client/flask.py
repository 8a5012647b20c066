"""Guards a Flask application with the platform's API keys.

```python
api_keys = ApiKeys(Client(URL, TOKEN))
api_keys.init_app(app)

@app.post("/lookups")
@api_keys.require(permission="lookups:write", meter="lookups")
def create():
    return {"customer": g.verification.organization_id}
```
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, Callable, Optional, TypeVar

from flask import Flask, Response, g, request

from saas_api_client import guards, models
from saas_api_client._clients import Client
from saas_api_client.guards import KeyRefused, Policy

View = TypeVar("View", bound=Callable[..., Any])


class ApiKeys:
    """Checks the keys of requests; `flask.g.verification` is the answer of the platform.

    fail_open: let calls pass, unmetered and with None for `g.verification`, while the platform cannot be reached;
        otherwise they get 503
    """

    def __init__(self, client: Client, *, fail_open: bool = False) -> None:
        self._guard = guards.Guard(client, fail_open=fail_open)

    def init_app(self, app: Flask, *, policy: Optional[Policy] = None, exempt: Collection[str] = ()) -> None:
        """Answer refused requests, and add the headers of rate limits to the others.

        policy: for every request of the application, so that no view needs `require`
        exempt: paths that need no key even then, such as "/healthz"
        """
        app.register_error_handler(KeyRefused, _refuse)
        app.after_request(self._finish)
        if policy is not None:

            def check_every_request() -> None:
                if request.path not in exempt:
                    self.check(policy)

            app.before_request(check_every_request)

    def require(self, **policy: Any) -> Callable[[View], View]:
        """Return a decorator for views; its parameters are those of `Policy`."""
        checked = Policy(**policy)

        def decorate(view: View) -> View:
            @functools.wraps(view)
            def call(*args: Any, **kwargs: Any) -> Any:
                self.check(checked)
                return view(*args, **kwargs)

            return call  # type: ignore[return-value] # takes and returns what the view does

        return decorate

    def check(self, policy: Policy) -> Optional[models.Verification]:
        """Check the key of the current request now, where the quantity is known only in the view.

        raises: KeyRefused, for which the application answers
        """
        rule = request.url_rule
        caller = guards.Caller(
            request.headers.get("X-API-Key"),
            request.headers.get("Authorization"),
            request.remote_addr,
            f"{request.method} {rule.rule}" if rule else None,
        )
        verification = self._guard.check(caller, policy)
        g.verification = verification
        return verification

    def _finish(self, response: Response) -> Response:
        verification: Optional[models.Verification] = g.get("verification")
        if response.status_code >= 500:
            self._guard.take_back(verification)
        response.headers.extend(guards.rate_limit_headers(verification))
        return response


def _refuse(refused: KeyRefused) -> Response:
    return Response(refused.body, refused.status, refused.headers)
