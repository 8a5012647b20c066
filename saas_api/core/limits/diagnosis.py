"""What is wrong with LIMITS_REDIS_URL, for people: one line each."""

from collections.abc import Iterator

import redis
from redis import crc
from redis.backoff import NoBackoff
from redis.retry import Retry

from saas_api.core import redis_url
from saas_api.core.redis_url import RedisUrl

MIN_VERSION = (6, 2)
_TIMEOUT_SECONDS = 1


def find_problems(address: str) -> list[str]:
    """Why limits cannot be counted at an address, or not all of them; empty where everything is well."""
    url = redis_url.parse(address)
    if url.kind == "cluster":
        problems = _find_in_cluster(url)
    elif url.kind == "sentinel":
        problems = _find_in_service(url)
    else:
        problems = _find_in_server(url)
    return list(dict.fromkeys(problems))


def _client(address: str) -> redis.Redis:
    return redis.Redis.from_url(
        address,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        socket_timeout=_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


def _find_in_server(url: RedisUrl) -> Iterator[str]:
    with _client(url.text) as client:
        yield from _find_in_client(url.name, client, is_in_cluster=False)


def _find_in_client(name: str, client: redis.Redis, *, is_in_cluster: bool) -> Iterator[str]:
    try:
        info = {**client.info("server"), **client.info("memory"), **client.info("cluster")}
    except redis.RedisError as error:
        yield f"{name}: {error}"
        return
    version, has_cluster = str(info["redis_version"]), bool(info.get("cluster_enabled"))
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_VERSION:
        yield f"{name} has version {version}: 6.2 or later is needed"
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        yield f"{name} forgets counters when it is full: set maxmemory-policy noeviction"
    if has_cluster and not is_in_cluster:
        yield f"{name} is a node of a Redis Cluster: write redis+cluster://{name}"


def _find_in_cluster(url: RedisUrl) -> Iterator[str]:
    primaries: dict[str, RedisUrl] = {}
    for host, port in url.servers:
        with _client(url.of_server(host, port)) as client:
            try:
                ranges = client.execute_command("CLUSTER", "SLOTS")
            except redis.RedisError as error:
                is_plain = "cluster support disabled" in str(error)
                name = f"{host}:{port}"
                yield f"{name} is not a node of a cluster: write redis://{name}" if is_plain else f"{name}: {error}"
                continue
        missing = crc.REDIS_CLUSTER_HASH_SLOTS - sum(last + 1 - first for first, last, *_ in ranges)
        if missing:
            yield f"{missing} slots of the cluster have no node"
        for _, _, (address, node_port, *_), *_ in ranges:
            server = redis_url.parse(url.of_server(address.decode() if address else host, node_port))
            primaries[server.name] = server
    for server in primaries.values():
        with _client(server.text) as client:
            yield from _find_in_client(server.name, client, is_in_cluster=True)


def _find_in_service(url: RedisUrl) -> Iterator[str]:
    primaries: dict[str, RedisUrl] = {}
    for host, port in url.servers:
        name = f"{host}:{port}"
        with _client(url.of_server(host, port)) as client:
            try:
                masters = client.sentinel_masters()
            except redis.RedisError as error:
                yield f"{name} is not a Sentinel: {error}" if "unknown command" in str(error) else f"{name}: {error}"
                continue
        state = masters.get(url.service)
        if state is None:
            yield f"{name} watches no service {url.service}, but {', '.join(sorted(masters)) or 'none'}"
            continue
        server = redis_url.parse(url.of_server(state["ip"], state["port"]))
        primaries[server.name] = server
    if len(primaries) > 1:
        yield f"the Sentinels name several primaries: {', '.join(sorted(primaries))}"
    for server in primaries.values():
        with _client(server.text) as client:
            yield from _find_in_client(server.name, client, is_in_cluster=False)
