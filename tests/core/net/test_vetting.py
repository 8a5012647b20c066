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
        "https://a.example/ä",
        "https://a..example/",
        "https://.example/",
        f"https://{'a' * 64}.example/",
        f"https://{'a.' * 127}example/",
        "https://-a.example/",
        "https://a-.example/",
        "https://a%62.example/",
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://xn--a.example/",
        "https://xn--.example/",
        "https://\u00ad.example/",
        "https://a.1/",
        f"https://a.example/{'a' * 2048}",
        "http://a.example/",
        "https://a.example:22/",
        "https://[::1",
    ],
)
def test_malformed_url_is_refused(url: str) -> None:
    """A15: hosts that cannot exist were accepted."""
    with pytest.raises(AddressNotAllowed):
        vetting.validate_url(url)


@pytest.mark.parametrize(
    "host",
    [
        "localhost.",
        "hook",
        "printer.local",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "a.home.arpa",
        "a.onion",
        "168.63.129.16",
    ],
)
def test_name_that_is_never_public_is_refused(host: str) -> None:
    """security.md, small: such names passed while they did not resolve; so did an address of cloud metadata."""
    with pytest.raises(AddressNotAllowed, match="private or reserved"):
        vetting.validate_url(f"https://{host}/")


def test_private_name_in_an_allowed_network_is_accepted() -> None:
    assert vetting.validate_url("http://localhost:9/hook", ["127.0.0.0/8", "::1/128"]) == "http://localhost:9/hook"


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("https://b\u00fccher.example/hook?a=1", "https://xn--bcher-kva.example/hook?a=1"),
        ("https://B\u00dcCHER.example:8443/", "https://xn--bcher-kva.example:8443/"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("https://\u4f8b\u3048.example/", "https://xn--r8jz45g.example/"),
        ("https://a.example./hook", "https://a.example/hook"),
        ("https://my_service.a.example/hook", "https://my_service.a.example/hook"),
    ],
)
def test_internationalized_host_is_stored_in_ascii(url: str, stored: str) -> None:
    """A11: hosts with letters that are not ASCII were refused unless written with xn--."""
    assert vetting.validate_url(url) == stored


def test_digits_of_another_script_are_an_address() -> None:
    with pytest.raises(AddressNotAllowed, match="private or reserved"):
        vetting.validate_url("https://\uff11\uff12\uff17.0.0.1/")
