"""Puts keys, limits and a price per token before a language model.

The tokens of a call are known only afterwards. So the most it may come to is held before, which counts against the
customer's quota, spend cap and balance; what was really used is settled in the end, also when the customer hangs up.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from saas_api_client import AsyncClient, AsyncEventBuffer, ConflictError, Event, Verification
from saas_api_client.asgi import check
from saas_api_client.fastapi import ApiKeyMiddleware, Policy

URL, TOKEN = os.environ["SAAS_API_URL"], os.environ["SAAS_API_TOKEN"]
HOLD_SECONDS = 600

guard = AsyncClient(URL, TOKEN, total_timeout_seconds=3)  # a customer waits
platform = AsyncClient(URL, TOKEN, total_timeout_seconds=HOLD_SECONDS)
late_usage = AsyncEventBuffer(platform)
model = httpx.AsyncClient(base_url=os.environ["MODEL_URL"], timeout=60)
settlements: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Wait for the last settlements at the end."""
    async with guard, platform, late_usage, model:
        yield
        await asyncio.gather(*settlements)


app = FastAPI(title="Model", lifespan=lifespan)
app.add_middleware(ApiKeyMiddleware, client=guard)


class ChatIn(BaseModel):
    """A prompt and the most that the answer may cost."""

    prompt: str
    max_tokens: int = Field(256, ge=1, le=4096)


@app.post("/v1/chat")
async def chat(body: ChatIn, request: Request) -> StreamingResponse:
    """Stream the model's answer, one token per line."""
    policy = Policy(permission="chat:write", meter="tokens", quantity=body.max_tokens, hold_seconds=HOLD_SECONDS)
    caller = await check(request.scope, policy)
    return StreamingResponse(answer(body, caller), media_type="text/plain")


async def answer(body: ChatIn, caller: Verification | None) -> AsyncIterator[str]:
    """Pass the tokens on and count them."""
    tokens = 0
    try:
        async with model.stream("GET", "/generate", params=body.model_dump()) as stream:
            async for token in stream.aiter_lines():
                tokens += 1
                yield f"{token}\n"
    finally:  # a customer who hangs up cancels this task, so another one settles
        if caller and caller.hold_id and caller.organization_id:
            task = asyncio.create_task(settle(caller.hold_id, caller.organization_id, tokens))
            settlements.add(task)
            task.add_done_callback(settlements.discard)


async def settle(hold_id: str, organization_id: str, tokens: int) -> None:
    """Record what was used; also of an answer that took longer than its hold."""
    if tokens == 0:
        await platform.release(hold_id)
        return
    try:
        await platform.settle(hold_id, tokens)
    except ConflictError:
        await late_usage.record(Event("tokens", organization_id, tokens, id=hold_id))
