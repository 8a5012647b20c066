"""Connections to the primary of a service that Sentinels watch."""

import time
from typing import Any

import redis
from redis import connection, sentinel
from redis.exceptions import NoScriptError

from saas_api.core.limits import direct_connections
from saas_api.core.limits.direct_connections import Command, DirectConnections
from saas_api.core.redis_url import RedisUrl


class PrimaryConnections(DirectConnections):
    """Connections to the server that is the primary when they are opened."""

    def execute(self, *commands: Command) -> list[Any]:
        """As its base; after an error the Sentinels are asked again, because another server may be the primary."""
        try:
            return super().execute(*commands)
        except NoScriptError:
            raise
        except redis.RedisError:
            self._idle.clear()
            raise


class Sentinels(sentinel.Sentinel):
    """The Sentinels of a service, asked in turn until one knows the primary or 50 ms have passed."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the primary; a Sentinel that does not know them is asked last the next time.

        raises: MasterNotFoundError
        """
        ends_at, reasons = time.monotonic() + direct_connections.TIMEOUT_SECONDS, []
        for server in list(self.sentinels):
            try:
                state = server.sentinel_masters().get(service_name)  # type: ignore[union-attr]  # a mapping
            except (redis.ConnectionError, redis.TimeoutError) as error:
                reasons.append(str(error))
            else:
                if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]  # of redis-py
                    return state["ip"], state["port"]
                reasons.append(f"{service_name} is down" if state else f"no service {service_name}")
            self.sentinels = [*(other for other in self.sentinels if other is not server), server]
            if time.monotonic() > ends_at:
                break
        raise sentinel.MasterNotFoundError("; ".join(reasons))


def connect(url: RedisUrl) -> PrimaryConnections:
    """Connections to the primary of a service; nobody is asked yet."""
    options = connection.parse_url(url.of_server(*url.servers[0]))  # type: ignore[no-untyped-call]  # of redis-py
    options |= direct_connections.low_latency_options()
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    options["ssl"] = url.is_encrypted
    of_sentinels = {name: value for name, value in options.items() if name != "db"}
    sentinels = Sentinels(url.servers, sentinel_kwargs=of_sentinels)  # type: ignore[no-untyped-call]  # of redis-py
    return PrimaryConnections(sentinel.SentinelConnectionPool(url.service, sentinels, **options))  # type: ignore[no-untyped-call]  # of redis-py
