"""A function that a process calls periodically in a thread, beside its requests."""

import atexit
import threading
from collections.abc import Callable

from flask import Flask, current_app
from sqlalchemy.exc import OperationalError

from saas_api.core.observability import get_logger

log = get_logger(__name__)


class PeriodicThread:
    """Calls a function every few seconds in an application context, and once more when the process ends."""

    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self._seconds = seconds
        self._call = call
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ensure_started(self) -> None:
        """Start the thread unless it is running; a forked child starts its own."""
        with self._start_lock:
            if self._thread is None or not self._thread.is_alive():
                app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - the documented way to hand an application to a thread
                stop = threading.Event()
                self._thread = threading.Thread(target=self._run, args=(app, stop), daemon=True)
                self._thread.start()
                atexit.register(self._stop, app, stop)

    def _run(self, app: Flask, stop: threading.Event) -> None:
        while not stop.wait(self._seconds):
            self._call_logged(app)

    def _stop(self, app: Flask, stop: threading.Event) -> None:
        stop.set()
        self._call_logged(app)

    def _call_logged(self, app: Flask) -> None:
        try:
            with app.app_context():
                self._call()
        except OperationalError:
            log.warning("repeated_call_waits_for_database")
        except Exception:
            log.warning("repeated_call_failed", exc_info=True)
