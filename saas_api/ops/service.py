"""Whether what the product stands on answers; asking takes no longer than its time-outs and never raises."""

import threading

import redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from saas_api.core.limits import hot_pool
from saas_api.core.observe import get_logger
from saas_api.core.settings import setting
from saas_api.core.tenancy import UnsafeDatabase, boot_check

log = get_logger(__name__)


_proven = threading.Event()


def database_answers(session: Session) -> bool:
    """Whether PostgreSQL runs a statement, and has once been proven to keep tenants apart."""
    try:
        if not _proven.is_set():
            boot_check()
            _proven.set()
        return bool(session.scalar(text("SELECT 1")))
    except UnsafeDatabase as error:
        log.error("database_unsafe", reason=str(error))  # noqa: TRY400 - no traceback
        return False
    except SQLAlchemyError:
        return False


def redis_answers() -> bool:
    """Whether Redis answers a ping within a twentieth of a second."""
    pool = hot_pool(setting("REDIS_URL"))
    try:
        return bool(redis.Redis(connection_pool=pool).ping())
    except redis.RedisError:
        return False
    finally:
        pool.disconnect()
