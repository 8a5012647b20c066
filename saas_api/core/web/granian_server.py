"""The server granian: HTTP in Rust, and the application in a few threads of each web process.

granian has no deadline for a body or for a response; docs/deployment.md says what the proxy has to do.
"""

import functools
import ipaddress
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flask import Flask
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from saas_api.core import metrics, processes
from saas_api.core.errors import ApiError, UriTooLong
from saas_api.core.web import serving

_HEAD_BYTES = 65_536
_LOGGING = {
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "generic"}},
    "loggers": {"_granian": {"handlers": ["stderr"], "propagate": False}},
}
"""granian's own lines go to stderr, as gunicorn's do."""


class Server(MPServer):
    """granian's supervisor, which starts a crashed process however often, but never one that refuses to serve."""

    def _serve_loop(self, spawn_target: Any, target_loader: Any) -> None:
        """Wait for a signal, and start processes again that ended without one."""
        while True:
            self.main_loop_interrupt.wait()
            self.main_loop_interrupt.clear()
            if self.interrupt_signal:
                return
            while self.interrupt_children:
                index = self.interrupt_children.pop(0)
                if self.wrks[index].inner.exitcode == serving.BOOT_ERROR:
                    self.shutdown(serving.BOOT_ERROR)  # type: ignore[no-untyped-call]  # it has types in part
                self._respawn_workers([index], spawn_target, target_loader)


class BufferedApplication:
    """The application with whole requests and whole responses, and few of them in it at a time.

    proxies: networks whose X-Forwarded-Proto counts
    """

    def __init__(self, application: Flask, proxies: Sequence[str]) -> None:
        self._application = application
        self._places = threading.BoundedSemaphore(serving.APPLICATION_THREADS)
        self._proxies = [ipaddress.ip_network(network) for network in proxies]

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        """Read the body, call the application when it has room, and return its whole response."""

        def start(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
            return start_response(status, [*headers, ("Server", serving.SERVER_HEADER)])

        environ["REMOTE_ADDR"] = peer = environ["REMOTE_ADDR"].removeprefix("::ffff:")
        if environ.get("HTTP_X_FORWARDED_PROTO") == "https" and self._is_proxy(peer):
            environ["wsgi.url_scheme"] = "https"
        try:
            if len(environ["PATH_INFO"]) + len(environ["QUERY_STRING"]) > serving.MAX_TARGET_BYTES:
                raise UriTooLong
            request = environ["wsgi.input"] = serving.read_request(environ)
        except ApiError as error:
            return self._refuse(error, environ, start)
        with request, self._places:
            response = serving.collect_response(self._application(environ, start))
        first_piece = response.read(serving.RESPONSE_SPOOL_BYTES)
        if len(first_piece) == serving.RESPONSE_SPOOL_BYTES:
            response.seek(0)
            return serving.iter_and_close(response)
        response.close()
        return [first_piece]

    def _is_proxy(self, address: str) -> bool:
        return any(ipaddress.ip_address(address) in network for network in self._proxies)

    def _refuse(self, error: ApiError, environ: Mapping[str, Any], start: Callable[..., object]) -> list[bytes]:
        is_json = serving.wants_json(environ["PATH_INFO"], environ.get("HTTP_ACCEPT", ""))
        status, headers, body = serving.render_error(self._application, error, is_json=is_json)
        start(status, headers)
        return [body]


def run(settings: Mapping[str, Any], load_application: Callable[[], Flask]) -> None:
    """Serve the application until SIGTERM, in web processes that each load it.

    load_application: a function of a module, which a web process calls
    """
    host = serving.any_host() if settings["LISTEN_ON"] == "all" else "127.0.0.1"
    server = Server(
        "saas-api",
        address=host,
        port=settings["API_PORT"],
        interface=Interfaces.WSGI,
        workers=settings["WEB_CONCURRENCY"],
        blocking_threads=serving.CONNECTIONS,
        backpressure=serving.CONNECTIONS,
        http=HTTPModes.http1,
        # granian's deadline of a head is also that of an idle connection, which must outlive the proxy's
        http1_settings=HTTP1Settings(
            header_read_timeout=1000 * settings["KEEPALIVE_SECONDS"], max_buffer_size=_HEAD_BYTES
        ),
        log_level=LogLevels.error,
        log_dictconfig=_LOGGING,
        respawn_failed_workers=True,
        workers_kill_timeout=serving.STOP_SECONDS,
    )
    loader = functools.partial(_load, os.getpid(), load_application, settings["TRUSTED_PROXY_IPS"])
    metrics.share_between_processes()
    try:
        server.serve(target_loader=loader, wrap_loader=False)
    finally:
        metrics.delete_shared_values()


def _load(supervisor: int, load_application: Callable[[], Flask], proxies: Sequence[str]) -> BufferedApplication:
    """Load the application in a web process; an error ends the server, because the next process would meet it too.

    supervisor: its process id
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the supervisor's handlers are inherited, and would only set a flag
    end_with_parent = processes.parent_death_signal(signal.SIGTERM)
    if end_with_parent:
        end_with_parent()
    if os.getppid() != supervisor:
        sys.exit()
    try:
        application = load_application()
        serving.require_isolation(application)
    except Exception:  # noqa: BLE001 - whatever it is
        traceback.print_exc()
        sys.exit(serving.BOOT_ERROR)
    except SystemExit as error:
        sys.stderr.write(f"{error.code}\n" * isinstance(error.code, str))
        sys.exit(serving.BOOT_ERROR)
    return BufferedApplication(application, proxies)
