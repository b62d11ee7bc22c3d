"""Which internet addresses a server may be told to call by strangers."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Of IPv6 only global unicast is public; what embeds an IPv4 address (6to4, Teredo) may lead anywhere,
# and documentation's addresses nowhere.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = (IPv6Network("2002::/16"), IPv6Network("2001::/32"), IPv6Network("3fff::/20"))
# Protocol assignments, relays into 6to4, and where a cloud answers its own machines (Azure's).
_NOT_PUBLIC_V4 = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"), IPv4Network("168.63.129.16/32"))


def may_be_called(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Public addresses, and those in the networks that the operator allows."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in allowed if network.version == address.version):
        return True
    if isinstance(address, IPv4Address):
        special = address.is_multicast or any(address in network for network in _NOT_PUBLIC_V4)
        return address.is_global and not special
    special = any(address in network for network in _NOT_PUBLIC_V6)
    return address in _GLOBAL_UNICAST and address.is_global and not special


def literal(host: str) -> Address | None:
    """The address that a URL's host spells out; None for a name."""
    try:
        return ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
