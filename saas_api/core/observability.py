"""Structured logs, in which secrets are redacted by name and by pattern."""

import contextlib
import io
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from saas_api.core import faults

_SECRET_NAMES = re.compile(r"password|token|secret|authorization|cookie|api_key|pepper", re.IGNORECASE)
_SECRET_VALUES = re.compile(
    r"[a-z][a-z0-9]{1,11}_(?:live|test)_\w{8,}|svc_[0-9A-Za-z]{46}|whsec_\S+|eyJ[\w-]+\.[\w-]+\.[\w-]*"
)
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class _Stderr(io.StringIO):
    """The current sys.stderr: tests replace it, and it is closed before the last thread has logged."""

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


def configure_logging(config: Mapping[str, Any]) -> None:
    """Configure logging of this process, JSON in production and readable lines elsewhere, and the active fault."""
    faults.active_fault[:] = [config["FAULT"]] if config.get("APP_FAULTS") and config.get("FAULT") else []
    is_production = config.get("APP_ENV") == "production"
    renderer = structlog.processors.JSONRenderer() if is_production else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[str(config.get("LOG_LEVEL", "info")).lower()]),
        logger_factory=structlog.WriteLoggerFactory(file=_Stderr()),
        cache_logger_on_first_use=False,
    )


def _redact_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if _SECRET_NAMES.search(name) and value:
            event[name] = "[hidden]"
        elif isinstance(value, str):
            event[name] = _SECRET_VALUES.sub("[hidden]", value)
    return event
