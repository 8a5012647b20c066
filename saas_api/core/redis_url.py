"""Addresses of Redis: one server, the nodes of a Redis Cluster, or the Sentinels of a service."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, urlsplit

Kind = Literal["server", "cluster", "sentinel"]
_KINDS: dict[str, Kind] = {
    "redis": "server",
    "rediss": "server",
    "unix": "server",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
}
SCHEMES = tuple(_KINDS)


class MalformedRedisUrl(ValueError):
    """An address has none of the known forms."""


@dataclass(frozen=True)
class RedisUrl:
    """A parsed address.

    servers: host and port of some nodes of the cluster, or of the Sentinels; empty for one server
    service: that the Sentinels watch; empty otherwise
    """

    text: str
    kind: Kind
    servers: tuple[tuple[str, int], ...] = ()
    service: str = ""

    @property
    def is_encrypted(self) -> bool:
        return self.text.startswith("rediss")

    @property
    def name(self) -> str:
        """The address without login and options: what logs and metrics call it."""
        parts = urlsplit(self.text)
        return parts.netloc.rpartition("@")[2] or parts.path

    def of_server(self, host: str, port: int) -> str:
        """The address of one server, with the login, encryption and options of this one."""
        parts = urlsplit(self.text)
        login, at, _ = parts.netloc.rpartition("@")
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return SplitResult(parts.scheme.partition("+")[0], f"{login}{at}{place}", "", parts.query, "").geturl()


def parse(text: str) -> RedisUrl:
    """Parse an address.

    raises: MalformedRedisUrl
    """
    parts = urlsplit(text)
    kind = _KINDS.get(parts.scheme)
    if kind is None:
        raise MalformedRedisUrl
    if kind == "server":
        return RedisUrl(text, kind)
    servers = tuple(map(_parse_server, parts.netloc.rpartition("@")[2].split(",")))
    service = parts.path.strip("/")
    if bool(service) != (kind == "sentinel") or "/" in service:
        raise MalformedRedisUrl
    return RedisUrl(text, kind, servers, service)


def _parse_server(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text.strip()}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise MalformedRedisUrl from None
    if not host or not port:
        raise MalformedRedisUrl
    return host, port
