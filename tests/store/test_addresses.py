from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from store.addresses import literal, may_be_called


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_may_be_called(address: str) -> None:
    assert may_be_called(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # where clouds hand out credentials
        "100.64.0.1",
        "0.0.0.0",
        "192.0.0.8",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "fe80::1",
        "fc00::1",
        "fec0::1",
        "ff0e::1",
        "2002:7f00:1::",  # 6to4 of 127.0.0.1
        "2001:0:7f00:1::",  # Teredo
        "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
        "64:ff9b:1::1",
        "3fff::1",
        "192.88.99.1",
        "168.63.129.16",
        "2001:db8::1",
    ],
)
def test_private_and_reserved_addresses_may_not(address: str) -> None:
    assert not may_be_called(ip_address(address))


def test_the_operator_may_allow_networks() -> None:
    allowed = [ip_network("10.0.0.0/8"), ip_network("::1/128")]
    assert may_be_called(ip_address("10.1.2.3"), allowed)
    assert may_be_called(ip_address("::ffff:10.1.2.3"), allowed)
    assert may_be_called(ip_address("::1"), allowed)
    assert not may_be_called(ip_address("192.168.0.1"), allowed)


def test_only_spelled_out_addresses_are_literal() -> None:
    assert literal("[::1]") == ip_address("::1")
    assert literal("fe80::1%eth0") == ip_address("fe80::1")
    assert literal("example.com") is None
