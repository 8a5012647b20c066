"""Checks of the URLs that users name: no private or reserved address, and only the checked addresses are used."""

import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

MAX_URL_LENGTH = 2048
ALLOWED_PORTS = frozenset({80, 443, 8080, 8443})

os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:2")  # a call of the resolver has no deadline

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
"""Private, reserved, or translated into another network, such as NAT64; `is_global` alone allows several of them."""

_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
"""The allocated global unicast range; outside it are old notations of IPv4 addresses, such as ::127.0.0.1."""


class AddressNotAllowed(Exception):
    """A URL or address that requests may not be sent to; the message explains why to a user."""


class ConnectionFailed(Exception):
    """The server could not be reached, or closed the connection."""


@dataclass(frozen=True)
class VettedUrl:
    """The parts of a URL.

    addresses: of its host, once they are vetted
    """

    scheme: str
    host: str
    port: int
    path: str
    addresses: tuple[str, ...] = ()


def validate_url(url: str, allowed: Sequence[str] = ()) -> None:
    """Check a URL that webhooks are to be sent to; a host that does not resolve yet is accepted.

    allowed: networks in which private addresses, plain http and any port are allowed
    raises: AddressNotAllowed
    """
    target = parse_url(url)
    try:
        resolve_and_vet(target, allowed)
    except ConnectionFailed:
        _check_scheme_and_port(target)


def parse_url(url: str) -> VettedUrl:
    """Split a URL into its parts.

    raises: AddressNotAllowed
    """
    if len(url) > MAX_URL_LENGTH or not url.isascii() or any(char <= " " or char in "\\\x7f" for char in url):
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
    """A URL with the addresses of its host, all of which may be connected to.

    raises: AddressNotAllowed; ConnectionFailed for a host that does not resolve
    """
    networks = [ipaddress.ip_network(network) for network in allowed]
    addresses = _resolve(target)
    is_allowed = {address: any(_is_in_network(address, network) for network in networks) for address in addresses}
    if not all(is_allowed[address] or _is_public(address) for address in addresses):
        raise AddressNotAllowed("Points to a private or reserved address.")
    if not all(is_allowed.values()):
        _check_scheme_and_port(target)
    return replace(target, addresses=tuple(map(str, addresses)))


def _check_scheme_and_port(target: VettedUrl) -> None:
    if target.scheme != "https":
        raise AddressNotAllowed("Must be an address that begins with https://.")
    if target.port not in ALLOWED_PORTS:
        raise AddressNotAllowed("The port must be 443, 8443, 80 or 8080.")


def _resolve(target: VettedUrl) -> list[Address]:
    try:
        results = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as cause:
        raise ConnectionFailed("The host cannot be found.") from cause
    texts = dict.fromkeys(str(result[4][0]).partition("%")[0] for result in results)
    return [_unwrap_ipv6(ipaddress.ip_address(text)) for text in texts]


def _unwrap_ipv6(address: Address) -> Address:
    return getattr(address, "ipv4_mapped", None) or address


def _is_in_network(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def _is_public(address: Address) -> bool:
    if address.version == 6 and address not in _PUBLIC_IPV6:
        return False
    return address.is_global and not any(_is_in_network(address, network) for network in _DENIED)
