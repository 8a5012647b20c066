"""Puts keys, limits and a price per token before a language model.

The tokens of a call are known only afterwards. So the most it may come to is held before, which counts against the
customer's quota, spend cap and balance; what was really used is settled in the end, also when the customer hangs up.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx
from fastapi import FastAPI, HTTPException, Request
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
unfinished: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Wait for the last settlements at the end."""
    async with guard, platform, late_usage, model:
        yield
        await asyncio.gather(*unfinished)


app = FastAPI(title="Model", lifespan=lifespan)
app.add_middleware(ApiKeyMiddleware, client=guard)


class ChatIn(BaseModel):
    """A prompt, the model that answers, and the most that the answer may cost."""

    prompt: str
    model: Literal["small", "large"] = "small"
    max_tokens: int = Field(256, ge=1, le=4096)


@app.post("/v1/chat")
async def chat(body: ChatIn, request: Request) -> StreamingResponse:
    """Stream the model's answer, one token per line."""
    policy = Policy(
        permission="chat:write",
        meter="tokens",
        quantity=body.max_tokens,
        dimensions={"model": body.model},
        hold_seconds=HOLD_SECONDS,
    )
    caller = await check(request.scope, policy)
    return StreamingResponse(answer(await ask_model(body), body.model, caller), media_type="text/plain")


async def ask_model(body: ChatIn) -> httpx.Response:
    """Begin the answer; after a 502 the middleware releases the hold."""
    try:
        stream = await model.send(model.build_request("GET", "/generate", params=body.model_dump()), stream=True)
    except httpx.HTTPError as error:
        raise HTTPException(502, "the model does not answer") from error
    if stream.is_error:
        await stream.aclose()
        raise HTTPException(502, "the model has failed")
    return stream


async def answer(stream: httpx.Response, model_name: str, caller: Verification | None) -> AsyncIterator[str]:
    """Pass the tokens on and count them."""
    tokens = 0
    try:
        async for token in stream.aiter_lines():
            tokens += 1
            yield f"{token}\n"
    finally:  # a customer who hangs up cancels this task, so others settle and close
        end_in_background(stream.aclose())
        if caller and caller.hold_id and caller.organization_id:
            end_in_background(settle(caller.hold_id, caller.organization_id, model_name, tokens))


def end_in_background(work: Coroutine[Any, Any, None]) -> None:
    """Do what remains of a call in a task of its own; the end of the program waits for it."""
    task = asyncio.create_task(work)
    unfinished.add(task)
    task.add_done_callback(unfinished.discard)


async def settle(hold_id: str, organization_id: str, model_name: str, tokens: int) -> None:
    """Record what was used; also of an answer that took longer than its hold."""
    if tokens == 0:
        await platform.release(hold_id)
        return
    try:
        await platform.settle(hold_id, tokens)
    except ConflictError:
        await late_usage.record(Event("tokens", organization_id, tokens, properties={"model": model_name}, id=hold_id))
