"""Guards routes of FastAPI with the platform's API keys.

```python
app = FastAPI()
app.add_middleware(ApiKeyMiddleware, client=client)

@app.post("/lookups")
async def create(key: Annotated[Verification, Depends(require_key(meter="lookups"))]): ...
```
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Callable, Optional

from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from saas_api_client import asgi, models
from saas_api_client.asgi import ApiKeyMiddleware
from saas_api_client.guards import KeyRefused, Policy

__all__ = ["ApiKeyMiddleware", "KeyRefused", "Policy", "require_key"]

# These put the two ways to send a key into the application's OpenAPI document.
_HEADER = Security(APIKeyHeader(name="X-API-Key", auto_error=False))
_BEARER = Security(HTTPBearer(auto_error=False))


def require_key(**policy: Any) -> Callable[..., Awaitable[Optional[models.Verification]]]:
    """Return a dependency that checks the key of a request; its parameters are those of `Policy`.

    It needs `ApiKeyMiddleware`, which answers refused requests, and reverses what was recorded for failed ones.
    """
    checked = Policy(**policy)

    async def verified_key(
        request: Request, _header: Any = _HEADER, _bearer: Any = _BEARER
    ) -> Optional[models.Verification]:
        return await asgi.check(request.scope, checked)

    return verified_key
