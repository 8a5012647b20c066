"""Checks of the URLs that users name: no private or reserved address, and only the checked addresses are used."""

import functools
import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, urlsplit

import idna

MAX_URL_LENGTH = 2048
ALLOWED_PORTS = frozenset({80, 443, 8080, 8443})
_MAX_HOST_LENGTH = 253
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_PRIVATE_DOMAINS = frozenset(
    [
        "localhost",
        "local",
        "localdomain",
        "internal",
        "intranet",
        "private",
        "corp",
        "home",
        "lan",
        "onion",
        "home.arpa",
    ]
)
"""Domains that the public DNS never has, such as that of metadata.google.internal; so are names without a dot."""

os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:2")  # a call of the resolver has no deadline

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_DENIED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "168.63.129.16/32",  # Azure's metadata
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


def validate_url(url: str, allowed: Sequence[str] = ()) -> str:
    """Check a URL that webhooks are to be sent to; a host that does not resolve yet is accepted.

    allowed: networks in which private addresses and names, plain http and any port are allowed
    returns: the URL with its host in ASCII
    raises: AddressNotAllowed
    """
    ascii_url = _encode_host(url)
    target = parse_url(ascii_url)
    try:
        resolve_and_vet(target, allowed)
    except ConnectionFailed:
        _check_public_target(target)
    return ascii_url


def _encode_host(url: str) -> str:
    """A URL with an internationalized host in ASCII (`xn--`), and without the dot at the end of a host.

    raises: AddressNotAllowed for a host that has no such form
    """
    parts = _split(url)
    host = parts.hostname or ""
    if host.isascii() and not host.endswith("."):
        return url
    try:
        encoded = host if host.isascii() else idna.encode(host, uts46=True, std3_rules=True).decode()
    except idna.IDNAError as cause:
        raise AddressNotAllowed("The host is not a valid name.") from cause
    user, at, _ = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port is not None else ""
    return parts._replace(netloc=f"{user}{at}{encoded.removesuffix('.')}{port}").geturl()


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is no number
    except ValueError as cause:
        raise AddressNotAllowed("Is not an address.") from cause
    return parts


@functools.lru_cache(maxsize=1024)
def parse_url(url: str) -> VettedUrl:
    """Split a URL into its parts.

    raises: AddressNotAllowed
    """
    if len(url) > MAX_URL_LENGTH or not url.isascii() or any(char <= " " or char in "\\\x7f" for char in url):
        raise AddressNotAllowed("Must be an address of plain characters, at most 2048 of them.")
    parts = _split(url)
    port = parts.port
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise AddressNotAllowed("Must be an address that begins with https://.")
    if parts.username is not None or parts.password is not None:
        raise AddressNotAllowed("Must not hold a user name or password.")
    _check_host(parts.hostname)
    if port == 0:
        raise AddressNotAllowed("The port must be 443, 8443, 80 or 8080.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return VettedUrl(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), path)


def _check_host(host: str) -> None:
    """Refuse what is neither a host name nor an address; numbers such as 127.1 are addresses, which are vetted.

    raises: AddressNotAllowed
    """
    labels = host.split(".")
    if ":" in host:
        is_possible = "%" not in host  # of an interface; urlsplit has checked the rest
    elif _NUMBER.fullmatch(labels[-1]):
        is_possible = all(_NUMBER.fullmatch(label) for label in labels)
    else:
        is_possible = len(host) <= _MAX_HOST_LENGTH and all(_is_label(label) for label in labels)
    if not is_possible:
        raise AddressNotAllowed("The host is not a valid name.")


def _is_label(label: str) -> bool:
    if not _LABEL.fullmatch(label):
        return False
    try:
        return not label.lower().startswith("xn--") or bool(idna.ulabel(label))
    except idna.IDNAError:
        return False


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
        _check_public_target(target)
    return replace(target, addresses=tuple(map(str, addresses)))


def _check_public_target(target: VettedUrl) -> None:
    labels = target.host.lower().split(".")
    is_name = ":" not in target.host and not _NUMBER.fullmatch(labels[-1])
    if is_name and (len(labels) == 1 or {labels[-1], ".".join(labels[-2:])} & _PRIVATE_DOMAINS):
        raise AddressNotAllowed("The host has a private or reserved name.")
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
