"""Addresses of Redis: one server, a cluster, Sentinels."""

import pytest

from saas_api.core import redis_url
from saas_api.core.redis_url import MalformedRedisUrl


@pytest.mark.parametrize(
    ("text", "kind", "servers", "service", "name"),
    [
        ("redis://alice:pw@10.0.0.1:6379/2", "server", (), "", "10.0.0.1:6379"),
        ("unix:///run/redis.sock?db=1", "server", (), "", "/run/redis.sock"),
        ("redis+cluster://:pw@a:1,[::1]:2", "cluster", (("a", 1), ("::1", 2)), "", "a:1,[::1]:2"),
        ("rediss+sentinel://a:1,b:2/limits", "sentinel", (("a", 1), ("b", 2)), "limits", "a:1,b:2"),
    ],
)
def test_address_is_read(text: str, kind: str, servers: tuple[tuple[str, int], ...], service: str, name: str) -> None:
    url = redis_url.parse(text)
    assert (url.kind, url.servers, url.service, url.name) == (kind, servers, service, name)


def test_address_of_a_node_has_login_encryption_and_options() -> None:
    url = redis_url.parse("rediss+cluster://alice:p%40w@a:1,b:2?ssl_ca_certs=/etc/ca.pem")
    assert url.of_server("::1", 7) == "rediss://alice:p%40w@[::1]:7?ssl_ca_certs=/etc/ca.pem"


@pytest.mark.parametrize(
    "text",
    [
        "http://a:1",
        "redis+cluster://a",
        "redis+cluster://a:1,",
        "redis+cluster://a:port",
        "redis+cluster://a:1/0",
        "redis+sentinel://a:1",
        "redis+sentinel://a:1/one/two",
        "a:1",
    ],
)
def test_malformed_address_is_refused(text: str) -> None:
    with pytest.raises(MalformedRedisUrl):
        redis_url.parse(text)
