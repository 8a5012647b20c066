"""Configuration of gunicorn, the same in development and production."""

import sys
from pathlib import Path

import gunicorn.http.wsgi
from gunicorn.arbiter import Arbiter

from config import ConfigurationError, load
from saas_api.core import metrics
from saas_api.core.web import serving
from saas_api.core.web.gunicorn_worker import Worker

try:
    _settings = load()
except ConfigurationError as error:
    sys.exit(f"The settings cannot be used:\n{error}")


def _listening_hosts() -> list[str]:
    """Hosts to listen on, for IPv4 and, where the machine has it, for IPv6."""
    if _settings["LISTEN_ON"] == "all":
        return [serving.any_host().replace("::", "[::]")]
    return ["127.0.0.1", "[::1]"] if serving.has_ipv6_loopback() else ["127.0.0.1"]


gunicorn.http.wsgi.SERVER = serving.SERVER_HEADER  # for which gunicorn has no setting
bind = [f"{host}:{_settings['API_PORT']}" for host in _listening_hosts()]
worker_class = "saas_api.core.web.gunicorn_worker.Worker"
worker_connections = serving.CONNECTIONS
threads = serving.APPLICATION_THREADS
workers = _settings["WEB_CONCURRENCY"]
timeout = 30
graceful_timeout = serving.STOP_SECONDS
keepalive = _settings["KEEPALIVE_SECONDS"]
preload_app = False
max_requests = 0
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - heartbeats stay off the disk
forwarded_allow_ips = ",".join(_settings["TRUSTED_PROXY_IPS"])
accesslog = None
errorlog = "-"
loglevel = "warning"
limit_request_line = serving.MAX_TARGET_BYTES
limit_request_fields = 50

metrics.share_between_processes()


def on_exit(_server: Arbiter) -> None:
    """Delete what the workers have counted."""
    metrics.delete_shared_values()


def post_worker_init(worker: Worker) -> None:
    """Stop when the database does not isolate tenants."""
    serving.require_isolation(worker.application)
