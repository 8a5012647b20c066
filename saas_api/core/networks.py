"""Networks that a key, a service or the operator console may be limited to. Pure."""

import ipaddress
from collections.abc import Iterable

INVALID_NETWORK = "Not an address or a network like 203.0.113.0/24; write IPv4 as IPv4, and no zone."


def parse_network(text: str) -> str:
    """Return an IPv4 or IPv6 network in CIDR notation.

    text: an address or a network
    raises: ValueError for other text, a zone, or an IPv4 address written as IPv6
    """
    try:
        network = ipaddress.ip_network(text, strict=True)
    except ValueError as cause:
        raise ValueError(INVALID_NETWORK) from cause
    if "%" in text or (network.version == 6 and network.network_address.ipv4_mapped):
        raise ValueError(INVALID_NETWORK)
    return str(network)


def is_in_networks(address: str, networks: Iterable[str]) -> bool:
    """Whether an address, as `request_context.client_ip` returns it, is in one of some networks."""
    if address == "invalid":
        return False
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)
