"""Looks up the country of a telephone number. The platform checks the caller's key and counts the call."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from saas_api_client import AsyncClient, Verification
from saas_api_client.fastapi import ApiKeyMiddleware, require_key

COUNTRIES = {"+234": "Nigeria", "+254": "Kenya", "+44": "United Kingdom", "+49": "Germany"}

platform = AsyncClient(os.environ["SAAS_API_URL"], os.environ["SAAS_API_TOKEN"])


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Close the connections to the platform at the end."""
    async with platform:
        yield


app = FastAPI(title="Lookups", lifespan=lifespan)
app.add_middleware(ApiKeyMiddleware, client=platform)
Caller = Annotated[Verification, Depends(require_key(permission="lookups:write", meter="lookups"))]


class LookupIn(BaseModel):
    """A number to look up, such as +2348012345678."""

    number: str


@app.post("/v1/lookups")
async def create_lookup(body: LookupIn, caller: Caller) -> dict[str, str | None]:
    """Look a number up; only a call with a valid key comes here, and it is on the customer's bill."""
    country = next((name for prefix, name in COUNTRIES.items() if body.number.startswith(prefix)), None)
    if country is None:
        raise HTTPException(404, "unknown country")
    return {"number": body.number, "country": country, "customer": caller.organization_id}
