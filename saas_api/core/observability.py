"""Structured logs, in which secrets are redacted by name and by pattern."""

import contextlib
import functools
import io
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from saas_api.core import faults, secret_format, tracing

_SECRET_NAMES = re.compile(r"password|token|secret|authorization|cookie|api_key|pepper", re.IGNORECASE)
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


class _NamedLogger(structlog.WriteLogger):
    """Writes lines; `add_logger_name` reads the name of its module."""

    def __init__(self, file: io.StringIO, name: str = "") -> None:
        super().__init__(file)
        self.name = name


def get_logger(name: str) -> Any:
    """A structured logger; the first argument of its calls is the event's name.

    name: of the module, which the lines have as `logger`
    """
    return structlog.get_logger(name)


def configure_logging(config: Mapping[str, Any]) -> None:
    """Configure logging of this process, JSON in production and readable lines elsewhere, and the active fault."""
    faults.active_fault[:] = [config["FAULT"]] if config.get("APP_FAULTS") and config.get("FAULT") else []
    is_production = config.get("APP_ENV") == "production"
    level_by_package = _parse_levels(str(config.get("LOG_LEVEL", "info")))
    renderer = structlog.processors.JSONRenderer() if is_production else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.stdlib.add_logger_name,
            *([functools.partial(_drop_below_level, level_by_package)] if len(level_by_package) > 1 else []),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _report_error,
            structlog.processors.format_exc_info,
            _redact_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(min(level_by_package.values())),
        logger_factory=functools.partial(_NamedLogger, _Stderr()),
        cache_logger_on_first_use=False,
    )


def _parse_levels(text: str) -> dict[str, int]:
    """Levels of "info,saas_api.webhooks=debug" by package with a final dot; that of all others is under ""."""
    general, *of_packages = text.lower().split(",")
    named = (part.partition("=") for part in of_packages)
    return {"": _LEVELS[general], **{f"{package}.": _LEVELS[level] for package, _, level in named}}


def _drop_below_level(
    level_by_package: Mapping[str, int], _logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Drop a line below the level of the innermost package that has one."""
    package = max(filter(f"{event['logger']}.".startswith, level_by_package), key=len)
    if _LEVELS[method if method in _LEVELS else "error"] < level_by_package[package]:
        raise structlog.DropEvent
    return event


def _report_error(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Send the error of a line to Sentry, where it is set up."""
    error = event.get("exc_info")
    error = sys.exc_info()[1] if error is True else error
    if isinstance(error, BaseException):
        tracing.report_error(error)
    return event


def _redact_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if _SECRET_NAMES.search(name) and value:
            event[name] = "[hidden]"
        elif isinstance(value, str):
            event[name] = secret_format.hide_secrets(value)
    return event
