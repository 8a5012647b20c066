"""Logs that carry no secret, and the points where the fault tests may strike."""

import contextlib
import io
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import structlog

_SECRET_NAMES = re.compile(r"password|token|secret|authorization|cookie|api_key|pepper", re.IGNORECASE)
_SECRET_VALUES = re.compile(r"[a-z][a-z0-9]{1,11}_(?:live|test)_\w{8,}|whsec_\S+|eyJ[\w-]+\.[\w-]+\.[\w-]*")
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_fault: list[str] = []
_passed: dict[str, int] = {}


class _Stderr(io.StringIO):
    """Whatever stderr is at the moment: it changes under tests, and closes before the last thread has spoken."""

    def write(self, text: str) -> int:
        with contextlib.suppress(ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(ValueError):
            sys.stderr.flush()


def get_logger(name: str) -> Any:
    """A structured logger; the first argument of its calls is the event's name."""
    return structlog.get_logger(name)


def configure(config: Mapping[str, Any]) -> None:
    """Set up logging for this process, JSON in production and readable lines elsewhere, and the fault tests' point."""
    _fault[:] = [config["FAULT"]] if config.get("APP_FAULTS") and config.get("FAULT") else []
    is_production = config.get("APP_ENV") == "production"
    renderer = structlog.processors.JSONRenderer() if is_production else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _mask,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[str(config.get("LOG_LEVEL", "info")).lower()]),
        logger_factory=structlog.WriteLoggerFactory(file=_Stderr()),
        cache_logger_on_first_use=False,
    )


@dataclass(frozen=True)
class Origin:
    """Where an act comes from; nothing of it for jobs and commands."""

    request_id: str | None = None
    ip: str | None = None


_origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039 - it is frozen


def origin() -> Origin:
    """The request that is being answered."""
    return _origin.get()


def begin(request_id: str, ip: str | None) -> None:
    """Remember the request that begins, and name it in every following log line."""
    clear()
    _origin.set(Origin(request_id, ip))
    bind(request_id=request_id)


def bind(**values: Any) -> None:
    """Add to every following log line of this request or job."""
    structlog.contextvars.bind_contextvars(**values)


def clear() -> None:
    """Forget what was bound: threads are reused."""
    structlog.contextvars.clear_contextvars()
    _origin.set(Origin())


def fault(name: str) -> None:
    """Strike here when the fault tests asked for it: FAULT=name:kill|raise|sleep=2[:nth], inert unless APP_FAULTS=1."""
    if not _fault:
        return
    wanted, _, rest = _fault[0].partition(":")
    if wanted != name:
        return
    action, _, nth = rest.partition(":")
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] != int(nth or 1):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise RuntimeError(f"fault {name}")
    elif action.startswith("sleep="):
        time.sleep(int(action.removeprefix("sleep=")))


def _mask(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if _SECRET_NAMES.search(name) and value:
            event[name] = "[hidden]"
        elif isinstance(value, str):
            event[name] = _SECRET_VALUES.sub("[hidden]", value)
    return event
