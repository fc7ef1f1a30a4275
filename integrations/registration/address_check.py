"""Check a base URL before the first call: where it leads, and whether calls may go there."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from integrations.delivery import listeners
from integrations.outbound.addresses import Network, lifting_network, refusal
from integrations.outbound.resolve import look_up_within
from integrations.outbound.urls import check_url, parse_url

LOOK_UP_WITHIN = 2.0  # seconds; a person waits


@dataclass(frozen=True, slots=True)
class AddressCheck:
    """``refusal``: why calls would be refused; ``networks``: if an admin allows them, the calls are made;
    ``unresolved``: the host that has no address."""

    refusal: str = ""
    networks: tuple[Network, ...] = ()
    unresolved: str = ""

    @property
    def permission(self) -> str:
        """The networks as a form sends them."""
        return ", ".join(map(str, self.networks))


def check(url: str, allowed: Sequence[Network]) -> AddressCheck:
    """Look up the host of a URL. Empty for a text that is no URL of a service: the schema says why."""
    if check_url(url):
        return AddressCheck()
    listeners.refresh_if_old()
    if reason := listeners.known().refusal_of_url(url):
        return AddressCheck(reason)
    host = parse_url(url).raw_host.decode("ascii")
    try:
        addresses = look_up_within(host, LOOK_UP_WITHIN)
    except (socket.gaierror, UnicodeError):
        return AddressCheck(unresolved=host)
    except TimeoutError:
        return AddressCheck()  # a slow resolver says nothing about the name
    refused = {address: reason for address in addresses if (reason := refusal(address, allowed))}
    networks = [lifting_network(address, allowed) for address in refused]
    # One address that no permission can allow refuses the name, so there is nothing to offer.
    offered = tuple(network for network in networks if network) if all(networks) else ()
    return AddressCheck(next(iter(refused.values()), ""), offered)
