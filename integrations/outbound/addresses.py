"""Decide which addresses a call may go to: deny by default, on the address that will be dialled.

::

    vet        all addresses of a host, or Refused
    refusal    one address against the allow list: the reason, or None

Every spelling of a host (decimal, octal, hex, short, mapped, bracketed, with a trailing dot, international) ends up as
an address in ``refusal``. The lists are written out because the flags of ``ipaddress`` are wrong for this purpose:
on Python 3.11 ``is_global`` is true for ``64:ff9b::a9fe:a9fe``, ``2002:7f00:1::`` and ``::127.0.0.1``, and
``is_private`` is false for ``100.64.0.0/10``. Sources: RFC 6890 and the IANA special-purpose address registries,
RFC 6052 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from urllib.parse import unquote

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class Refused(Exception):
    """A call that must not be made. The message is one sentence for an operator."""


def vet(host: str, answers: Sequence[str], allowed: Sequence[Network]) -> list[str]:
    """Return the resolver's answers, in their order, if a call may go to every one of them.

    One forbidden answer refuses the name: its owner must not be able to choose which of them is dialled. Raises
    Refused.
    """
    refuse_metadata(host)
    for address in answers:
        if reason := refusal(address, allowed):
            raise Refused(reason)
    return list(answers)


def refuse_metadata(host: str) -> None:
    """Raise Refused for a metadata name or address. Call this before the name is looked up."""
    if reason := metadata_refusal(host):
        raise Refused(reason)


def metadata_refusal(host: str) -> str | None:
    """Return the reason against a cloud metadata name or address, or None for other hosts. Needs no network."""
    if host.lower().rstrip(".") in METADATA_NAMES:
        return f"{host} is a cloud metadata name, which Switchboard never calls"
    address = literal(host)
    return refusal(address, EVERYTHING) if address else None


def refusal(address: str, allowed: Sequence[Network]) -> str | None:
    """Return the reason against a call to this address as one sentence, or None if it is allowed."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return f"“{address[:64]}” is not an address"
    judged = _unmapped(found)
    carried = _carried(judged)
    if any(each in METADATA_ADDRESSES for each in (judged, *carried)):
        return f"{found} is a cloud metadata address, which Switchboard never calls"
    if reason := _kind_refusal(judged, allowed):
        return reason
    if judged in NAT64 or judged in SIX_TO_FOUR:
        return _kind_refusal(carried[0], allowed)
    return None


def lifting_network(address: str, allowed: Sequence[Network]) -> Network | None:
    """Return the smallest network whose permission would allow this address, or None: it is allowed, or never is."""
    if refusal(address, allowed) is None:
        return None
    own: Network = ip_network(dialled(address)[0])
    return own if refusal(address, (*allowed, own)) is None else None


def _kind_refusal(address: Address, allowed: Sequence[Network]) -> str | None:
    if any(address in network for network in allowed if network.version == address.version):
        return None
    if address in NAT64:
        return None  # as public as the address it carries, which is judged on its own
    denied: Sequence[tuple[Network, str]] = DENIED_V4 if address.version == 4 else DENIED_V6
    for network, kind in denied:
        if address in network:
            return f"{address} is {kind}; an admin can allow its network for this service"
    return None


EVERYTHING: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))  # the widest allow list
# No allow list can permit these: a call to one of them could return the machine's own credentials.
METADATA_ADDRESSES: frozenset[Address] = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, Oracle, DigitalOcean, OpenStack
        "169.254.169.252",  # Google GKE
        "169.254.170.2",  # AWS ECS
        "169.254.170.23",  # AWS EKS
        "169.254.0.23",  # Tencent
        "169.254.42.42",  # Scaleway
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle classic
        "168.63.129.16",  # Azure's wire server: a public address that only responds inside
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
        "fd00:c1::a9fe:a9fe",  # Oracle
        "fd00:a9fe:a9fe::1",  # Akamai (Linode)
        "fd00:100::100:200",  # Alibaba
        "fe80::a9fe:a9fe",  # OpenStack
    )
)
METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.internal",
        "metadata.azure.com",
        "metadata.oraclecloud.com",
        "metadata.tencentyun.com",
        "metadata.platformequinix.com",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
DENIED_V4: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(text), kind)
    for text, kind in (
        ("0.0.0.0/8", "an address of this machine"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "an address shared inside a provider"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "an address reserved for protocols"),
        ("192.0.2.0/24", "an address for documentation"),
        ("192.88.99.0/24", "a 6to4 relay address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "an address for documentation"),
        ("203.0.113.0/24", "an address for documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
    )
)
# The first match names the kind, so narrow networks come before wide ones. The rest is 2000::/3 without its special
# blocks, the only space from which public unicast addresses are assigned.
DENIED_V6: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(text), kind)
    for text, kind in (
        ("::/128", "an address of this machine"),
        ("::1/128", "a loopback address"),
        ("64:ff9b:1::/48", "an address of a local translator"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("ff00::/8", "a multicast address"),
        ("2001::/32", "a Teredo address"),
        ("2001:db8::/32", "an address for documentation"),
        ("2001::/23", "an address reserved for protocols"),
        ("2002::/16", "a 6to4 address"),
        ("3ffe::/16", "a reserved address"),
        ("3fff::/20", "an address for documentation"),
        ("::/3", "a reserved address"),
        ("4000::/2", "a reserved address"),
        ("8000::/1", "a reserved address"),
    )
)


def dialled(address: str) -> list[Address]:
    """Return the address that the kernel dials for this one, and those that a translator or tunnel may extract from it.

    Raises ValueError for a text that is no address.
    """
    found = _unmapped(ip_address(address.partition("%")[0]))
    return [found, *_carried(found)]


def _unmapped(address: Address) -> Address:
    """Return the IPv4 address of a mapped address: the kernel dials that."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _carried(address: Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that a translator or a tunnel may extract from an IPv6 address."""
    if isinstance(address, IPv4Address):
        return []
    value, packed = int(address), address.packed
    if address in NAT64 or address in COMPATIBLE:
        return [IPv4Address(value & 0xFFFFFFFF)]
    if address in LOCAL_NAT64:  # RFC 6052 section 2.2: the prefix may be 48 or 96 bits long
        return [IPv4Address(packed[6:8] + packed[9:11]), IPv4Address(value & 0xFFFFFFFF)]
    if address in SIX_TO_FOUR:
        return [IPv4Address(packed[2:6])]
    if address in TEREDO:
        return [IPv4Address(packed[4:8]), IPv4Address(~value & 0xFFFFFFFF)]
    return []


NAT64 = IPv6Network("64:ff9b::/96")
LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
TEREDO = IPv6Network("2001::/32")
SIX_TO_FOUR = IPv6Network("2002::/16")
MAPPED = IPv6Network("::ffff:0:0/96")
COMPATIBLE = IPv6Network("::/96")


def literal(host: str) -> str | None:
    """Return the address that a host is a spelling of, or None for a name.

    Asks the C library, which also reads the text at the dial: it takes decimal, octal, hex and short forms.
    """
    text = unquote(host).strip("[]").removesuffix(".")
    try:
        answers = socket.getaddrinfo(text.partition("%")[0], None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError):
        return None
    return str(answers[0][4][0])


def check_port(port: int) -> None:
    """Raise ValueError for a port out of range. Call this before any lookup: getaddrinfo takes 65558 for 22."""
    if not 1 <= port <= 65_535:
        raise ValueError(f"port {port} is out of range: use 1 to 65535")


@lru_cache(maxsize=256)
def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a comma-separated list of CIDRs. Raises ValueError with a reason."""
    return tuple(_parse_network(part.strip()) for part in text.split(",") if part.strip())


def _parse_network(text: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError:
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"“{text}” is not a network: write one such as 10.0.0.0/8 or fd00::/8") from None
        raise ValueError(f"“{text}” is an address inside a network: write {meant}") from None
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        # A mapped address is judged as the IPv4 address that is dialled, so its network must be IPv4 too.
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network
