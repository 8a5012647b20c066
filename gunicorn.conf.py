"""Configuration of gunicorn, the same in development and production."""

import sys
from pathlib import Path

from gunicorn.workers.base import Worker
from sqlalchemy.exc import SQLAlchemyError

from config import ConfigurationError, load
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import UnsafeDatabase

BOOT_ERROR = 3  # exit code after which gunicorn does not start the worker again

try:
    _settings = load()
except ConfigurationError as error:
    sys.exit(f"The settings cannot be used:\n{error}")

bind = [f"0.0.0.0:{_settings['API_PORT']}"]
worker_class = "gthread"
threads = 8
workers = _settings["WEB_CONCURRENCY"]
timeout = 30
graceful_timeout = 25
keepalive = 5
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
    with worker.wsgi.app_context():
        try:
            tenancy.verify_isolation()
        except UnsafeDatabase as error:
            sys.stderr.write(f"DATABASE_URL: {error}\n")
            sys.exit(BOOT_ERROR)
        except SQLAlchemyError:
            worker.log.info("the database is unreachable; /readyz checks it again")
