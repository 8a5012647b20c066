"""A model that says one word of the prompt after the other; stands for the one that you pay for."""

import asyncio
import itertools
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


@app.get("/generate")
async def generate(prompt: str, max_tokens: int) -> StreamingResponse:
    """Stream at most so many tokens, one per line."""

    async def tokens() -> AsyncIterator[str]:
        for token in itertools.islice(itertools.cycle(prompt.split() or ["hm"]), max_tokens):
            yield f"{token}\n"
            await asyncio.sleep(0.02)

    return StreamingResponse(tokens(), media_type="text/plain")
