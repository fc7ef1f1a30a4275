"""The URLs that a service may have, and the reasons for refusing others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import httpx

from integrations.outbound.addresses import Network, check_port, literal, metadata_refusal, refusal

DEFAULT_PORTS = {"http": 80, "https": 443}
URL_LIMIT = 8_192  # characters; what common servers take as a request line
NAME_LIMIT, LABEL_LIMIT = 253, 63  # characters, RFC 1035
LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]")


def check_url(url: str) -> str | None:
    """Why this can't be a service's address, in words, or ``None``. Looks nothing up."""
    try:
        host = parse_url(url).host
    except ValueError as error:
        return str(error)
    return metadata_refusal(host)


def static_refusal(url: str, allowed: Sequence[Network]) -> str | None:
    """Why a call to this address would be refused, as far as its text says. Names are judged at the call."""
    if words := check_url(url):
        return words
    address = literal(parse_url(url).raw_host.decode("ascii"))
    return refusal(address, allowed) if address else None


@lru_cache(maxsize=1024)
def parse_url(url: str) -> httpx.URL:
    """The address as httpx will use it, so that the checker and the caller read the same text in the same way.

    Raises ValueError with words.
    """
    if len(url) > URL_LIMIT:
        raise ValueError(f"an address has at most {URL_LIMIT} characters")
    if " " in url.partition("?")[0] or CONTROL.search(url):
        raise ValueError("an address has no spaces, backslashes or control characters")
    try:
        parsed = httpx.URL(url)
        host = parsed.host  # decodes an international name, which can fail as well
    except (httpx.InvalidURL, ValueError):
        raise ValueError("this is not a valid address") from None
    if parsed.scheme not in DEFAULT_PORTS:
        raise ValueError("an address begins with http:// or https://")
    if not host:
        raise ValueError("an address has a host after http:// or https://")
    if parsed.userinfo:
        raise ValueError("an address carries no user name or password: put them into the service's authentication")
    if parsed.fragment or "#" in url:
        raise ValueError("an address has no fragment (#…): it would never be sent")
    check_port(DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port)
    _check_host(parsed.raw_host.decode("ascii"))
    return parsed


def _check_host(host: str) -> None:
    if ":" in host:
        if literal(host) is None:
            raise ValueError("what stands in brackets is not an IPv6 address")
        return
    name = host.removesuffix(".")
    if len(name) > NAME_LIMIT:
        raise ValueError(f"a host name has at most {NAME_LIMIT} characters")
    for label in name.split("."):
        if len(label) > LABEL_LIMIT or not LABEL.fullmatch(label):
            raise ValueError("the host is not a valid name")
