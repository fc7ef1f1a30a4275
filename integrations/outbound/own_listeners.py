"""The ports on which Switchboard itself, its database and its Redis listen: no call may go there, ever."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from integrations.outbound.addresses import Address, check_port, dialled, literal
from integrations.outbound.urls import DEFAULT_PORTS, parse_url

IPV4_ROUTES, IPV6_ADDRESSES = Path("/proc/net/fib_trie"), Path("/proc/net/if_inet6")  # Linux, proc(5)
LOCAL_IPV4 = re.compile(r"\|-- (\S+)\s+/32 host LOCAL")


class Listener(NamedTuple):
    """A port that something of this installation listens on."""

    owner: str  # "console", "database" or "Redis"
    port: int
    host: str = ""  # the name that the settings have for it
    addresses: tuple[str, ...] = ()
    is_here: bool = False  # on this machine, and perhaps on each of its addresses


@dataclass(frozen=True)
class OwnListeners:
    """All listeners in the form that a call is checked by. Equal ones compare equal."""

    names: Mapping[tuple[str, int], str] = field(default_factory=dict)  # owners by host name and port
    addresses: Mapping[tuple[Address, int], str] = field(default_factory=dict)
    ports: Mapping[int, str] = field(default_factory=dict)  # on every address of this machine
    all_ports: frozenset[int] = frozenset()  # of all of these: most calls go to other ports

    def refusal(self, host: str, port: int, answers: Sequence[str]) -> str | None:
        """Return the reason against a call to this host, which has these addresses, or None."""
        if port not in self.all_ports:
            return None
        owner = self.names.get((_plain(host), port)) or next(
            (owner for answer in answers for address in dialled(answer) if (owner := self._owner(address, port))), None
        )
        return f"port {port} of {host} is Switchboard's own {owner}, which it never calls" if owner else None

    def refusal_of_url(self, url: str) -> str | None:
        """The same for the text of a URL: a name that no setting has is judged at the call."""
        try:
            parsed = parse_url(url)
        except ValueError:
            return None  # another check has the reason
        host = parsed.raw_host.decode("ascii")
        address = literal(host)
        port = DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port
        return self.refusal(host, port, [address] if address else [])

    def _owner(self, address: Address, port: int) -> str | None:
        if owner := self.addresses.get((address, port)):
            return owner
        return self.ports[port] if port in self.ports and is_this_machine(address) else None


NONE = OwnListeners()


def own_listeners(listeners: Iterable[Listener]) -> OwnListeners:
    names: dict[tuple[str, int], str] = {}
    addresses: dict[tuple[Address, int], str] = {}
    ports: dict[int, str] = {}
    for owner, port, host, known, is_here in listeners:
        if host:
            names[_plain(host), port] = owner
        if is_here:
            ports[port] = owner
        for address in (address for text in known for address in dialled(text)):
            if is_this_machine(address):
                ports[port] = owner  # it may listen on the other addresses of this machine too
            else:
                addresses[address, port] = owner
    names |= {("localhost", port): owner for port, owner in ports.items()}
    return OwnListeners(names, addresses, ports, frozenset(port for _, port in [*names, *addresses]) | ports.keys())


def parse_listener(text: str) -> tuple[str, int]:
    """Return host and port of ``8443``, ``proxy.internal:443`` or ``[::1]:443``; the host is "" for a port alone.

    Raises ValueError with a reason.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdecimal()) or any(character in host for character in "/@ "):
        raise ValueError(f"“{text}” is not a port: write one such as 443, or proxy.internal:443 for another machine")
    check_port(int(port))
    return host, int(port)


def is_this_machine(address: Address) -> bool:
    """Whether an address belongs to this machine: no other address can be bound."""
    if address.is_loopback or address.is_unspecified:
        return True
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def machine_addresses() -> list[str]:
    """Return the addresses by which other machines may reach this one; where the system has no list, some of them."""
    found = {*_answers(socket.gethostname())}
    try:
        found |= set(LOCAL_IPV4.findall(IPV4_ROUTES.read_text()))
        lines = IPV6_ADDRESSES.read_text().splitlines()
        found |= {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0])) for line in lines}
    except OSError:
        pass  # not Linux, or a kernel without IPv6
    return sorted(address for address in found if not ip_address(address).is_loopback)


def _answers(host: str) -> list[str]:
    try:
        return [str(answer[4][0]).partition("%")[0] for answer in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):
        return []


def _plain(host: str) -> str:
    return host.lower().strip("[]").removesuffix(".")
