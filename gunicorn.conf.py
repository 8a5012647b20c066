"""Configuration of gunicorn, the same in development and production."""

import socket
import sys
from pathlib import Path

import gunicorn.http.wsgi
from sqlalchemy.exc import SQLAlchemyError

from config import ConfigurationError, load
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import UnsafeDatabase
from saas_api.core.web.gunicorn_worker import Worker

BOOT_ERROR = 3  # exit code after which gunicorn does not start the worker again

try:
    _settings = load()
except ConfigurationError as error:
    sys.exit(f"The settings cannot be used:\n{error}")


def _listening_hosts() -> list[str]:
    """Hosts to listen on, for IPv4 and, where the machine has it, for IPv6."""
    if _settings["LISTEN_ON"] == "all":
        return ["[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"]  # noqa: S104 - the setting says so
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return ["127.0.0.1"]
    return ["127.0.0.1", "[::1]"]


gunicorn.http.wsgi.SERVER = "saas-api"  # the header `Server`, for which gunicorn has no setting
bind = [f"{host}:{_settings['API_PORT']}" for host in _listening_hosts()]
worker_class = "saas_api.core.web.gunicorn_worker.Worker"
worker_connections = 500
threads = 8
workers = _settings["WEB_CONCURRENCY"]
timeout = 30
graceful_timeout = 25
keepalive = _settings["KEEPALIVE_SECONDS"]
preload_app = False
max_requests = 0
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - heartbeats stay off the disk
forwarded_allow_ips = ",".join(_settings["TRUSTED_PROXY_IPS"])
accesslog = None
errorlog = "-"
loglevel = "warning"
limit_request_line = 4094
limit_request_fields = 50


def post_worker_init(worker: Worker) -> None:
    """Stop when the database does not isolate tenants; an unreachable database is only logged."""
    with worker.application.app_context():
        try:
            tenancy.verify_isolation()
        except UnsafeDatabase as error:
            sys.stderr.write(f"DATABASE_URL: {error}\n")
            sys.exit(BOOT_ERROR)
        except SQLAlchemyError:
            worker.log.info("the database is unreachable; /readyz checks it again")
