"""URLs that webhooks may be sent to, in every spelling of an address."""

import pytest

from saas_api.core.net import client, vetting
from saas_api.core.net.vetting import AddressNotAllowed
from tests.support.listeners import Listener

SPELLINGS = (
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0x7f.1",
    "localhost",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "0.0.0.0",  # noqa: S104 - named, not bound
    "[::]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "[fe80::1]",
    "[fd00::1]",
    "[fec0::1]",
    "100.64.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "[ff02::1]",
    "192.0.2.1",
    "[2001:db8::1]",
    "[64:ff9b:1::1]",
    "[::127.0.0.1]",
    "[::a9fe:a9fe]",
    "[::ffff:0:127.0.0.1]",
    "[4000::1]",
)


@pytest.mark.parametrize("host", SPELLINGS)
def test_every_spelling_of_a_private_address_is_refused(host: str) -> None:
    listener = Listener()
    url = f"https://{host}:{listener.port}/"
    with pytest.raises(AddressNotAllowed, match="private or reserved"):
        vetting.validate_url(url)
    with pytest.raises(AddressNotAllowed, match="private or reserved"):
        client.post_once(url, b"{}", {})
    listener.server.close()
    assert listener.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hook",
        "ftp://a.example/",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user:pass@a.example/",
        "https://user@a.example/",
        "https://a.example:0/",
        "https://a.example:99999/",
        "https://a.example:x/",
        "https://a.example\\@127.0.0.1/",
        "https://a.example/\r\nX-Evil: 1",
        "https://a.example/ b",
        "https://ä.example/",
        f"https://a.example/{'a' * 2048}",
        "http://a.example/",
        "https://a.example:22/",
        "https://[::1",
    ],
)
def test_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(AddressNotAllowed):
        vetting.validate_url(url)
