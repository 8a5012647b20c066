"""Whether what the product stands on answers; asking takes no longer than its time-outs and never raises."""

import redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from saas_api.core.limits import hot_pool
from saas_api.core.settings import setting


def database_answers(session: Session) -> bool:
    """Whether PostgreSQL runs a statement."""
    try:
        return bool(session.scalar(text("SELECT 1")))
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
