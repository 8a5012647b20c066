"""Which URLs and addresses users may name; DNS pinning."""

import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

MAX_URL_LENGTH = 2048
ALLOWED_PORTS = frozenset({80, 443, 8080, 8443})

os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:2")  # a question to the resolver has no deadline of its own

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_DENIED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "::1/128",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)
"""Private, reserved, or a way into another network, such as NAT64; `is_global` alone lets several of them pass."""

_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
"""All that is given out to networks; outside it lie old ways to write an IPv4 address, such as ::127.0.0.1."""


class AddressNotAllowed(Exception):
    """An address nothing may be sent to; the text says why, for a person."""


class ConnectionFailed(Exception):
    """The other side could not be reached, or cut the connection."""


@dataclass(frozen=True)
class VettedUrl:
    """What a URL names.

    addresses: what its host leads to, once they are vetted
    """

    scheme: str
    host: str
    port: int
    path: str
    addresses: tuple[str, ...] = ()


def validate_url(url: str, allowed: Sequence[str] = ()) -> None:
    """Say whether webhooks may be sent there; a name that nobody knows yet may be known later.

    allowed: networks in which private addresses, plain http and any port are fine too
    raises: Blocked
    """
    target = parse_url(url)
    try:
        resolve_and_vet(target, allowed)
    except ConnectionFailed:
        _check_scheme(target)


def parse_url(url: str) -> VettedUrl:
    """The parts of a URL.

    raises: Blocked
    """
    if len(url) > MAX_URL_LENGTH or not url.isascii() or any(sign <= " " or sign in "\\\x7f" for sign in url):
        raise AddressNotAllowed("Must be an address of plain characters, at most 2048 of them.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as cause:
        raise AddressNotAllowed("Is not an address.") from cause
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise AddressNotAllowed("Must be an address that begins with https://.")
    if parts.username is not None or parts.password is not None:
        raise AddressNotAllowed("Must not hold a user name or password.")
    if port == 0:
        raise AddressNotAllowed("The port must be 443, 8443, 80 or 8080.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return VettedUrl(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), path)


def resolve_and_vet(target: VettedUrl, allowed: Sequence[str]) -> VettedUrl:
    """A target with its addresses, all of which may be connected to.

    raises: Blocked; Unreachable for a name that nobody knows
    """
    networks = [ipaddress.ip_network(network) for network in allowed]
    addresses = _resolve(target)
    inside = [any(_is_in_networks(address, network) for network in networks) for address in addresses]
    for address, is_allowed in zip(addresses, inside, strict=True):
        if not is_allowed and not _is_public(address):
            raise AddressNotAllowed("Points to a private or reserved address.")
    if not all(inside):
        _check_scheme(target)
    return replace(target, addresses=tuple(map(str, addresses)))


def _check_scheme(target: VettedUrl) -> None:
    if target.scheme != "https":
        raise AddressNotAllowed("Must be an address that begins with https://.")
    if target.port not in ALLOWED_PORTS:
        raise AddressNotAllowed("The port must be 443, 8443, 80 or 8080.")


def _resolve(target: VettedUrl) -> list[Address]:
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as cause:
        raise ConnectionFailed("The host cannot be found.") from cause
    texts = dict.fromkeys(str(info[4][0]).partition("%")[0] for info in found)
    return [_unwrap_ipv6(ipaddress.ip_address(text)) for text in texts]


def _unwrap_ipv6(address: Address) -> Address:
    return getattr(address, "ipv4_mapped", None) or address


def _is_in_networks(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def _is_public(address: Address) -> bool:
    if address.version == 6 and address not in _PUBLIC_IPV6:
        return False
    return address.is_global and not any(_is_in_networks(address, network) for network in _DENIED)
