"""Check and parse the URLs that a service may have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes, urlencode

import httpx

from integrations.outbound.addresses import Network, check_port, literal, metadata_refusal, refusal

DEFAULT_PORTS = {"http": 80, "https": 443}
URL_LIMIT = 8_192  # characters; common servers take as many in a request line
NAME_LIMIT, LABEL_LIMIT = 253, 63  # characters, RFC 1035
LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]")
NOT_IN_PATH = re.compile(r"[\x00-\x20\x7f]")
MAY_HIDE_DOTS = re.compile(r"\.\.|%")
DECODINGS = 5  # rounds of percent-decoding; each server on the way to the receiver may decode once
# Dot, slash and backslash as overlong UTF-8, which lenient decoders accept.
OVERLONG = ((b"\xc0\xae", b"."), (b"\xc0\xaf", b"/"), (b"\xc1\x9c", b"\\"))


def static_refusal(url: str, allowed: Sequence[Network]) -> str | None:
    """Return the reason why a call to this URL would be refused, as far as its text tells, or None.

    A name is judged at the call, by the addresses it has then.
    """
    if reason := check_url(url):
        return reason
    address = literal(parse_url(url).raw_host.decode("ascii"))
    return refusal(address, allowed) if address else None


def check_url(url: str) -> str | None:
    """Return the reason why this cannot be the URL of a service, or None. Needs no network."""
    try:
        host = parse_url(url).host
    except ValueError as error:
        return str(error)
    return metadata_refusal(host)


def origin(url: str) -> str:
    """Return scheme, host and port of a URL, or "" for a text that the client refuses as a URL."""
    try:
        parsed = parse_url(url)
    except ValueError:
        return ""
    port = DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port
    return f"{parsed.scheme}://{parsed.raw_host.decode('ascii')}:{port}"


def url_below(base: str, path: str, query: Mapping[str, Any]) -> str:
    """Return the URL of a path below a service's address. Query parameters of the address come first."""
    base, _, own_query = base.partition("?")
    parameters = "&".join(part for part in (own_query, urlencode(query, doseq=True) if query else "") if part)
    return base.rstrip("/") + path + (f"?{parameters}" if parameters else "")


def query_refusal(base: str, path: str, query: Mapping[str, Any]) -> str | None:
    """Return the reason why these parameters make the URL of a call too long, or None."""
    if not query or (length := len(url_below(base, path, query))) <= URL_LIMIT:
        return None
    return f"the URL would have {length:,} characters; the limit is {URL_LIMIT:,}: send long values in the body"


@lru_cache(maxsize=1024)  # of at most URL_LIMIT characters: an exception is not cached
def parse_url(url: str) -> httpx.URL:
    """Parse a URL with httpx's parser, so that the check and the call read the same text in the same way.

    Raises ValueError with a reason for the operator.
    """
    if len(url) > URL_LIMIT:
        raise ValueError(f"the URL must have at most {URL_LIMIT} characters")
    if " " in url.partition("?")[0] or CONTROL.search(url):
        raise ValueError("remove the spaces, backslashes or control characters from the URL")
    try:
        parsed = httpx.URL(url)
        host = parsed.host  # decodes an international name, which can fail too
    except (httpx.InvalidURL, ValueError):
        raise ValueError("this is not a valid URL") from None
    if parsed.scheme not in DEFAULT_PORTS:
        raise ValueError("the URL must begin with http:// or https://")
    if not host:
        raise ValueError("the URL needs a host after http:// or https://")
    if parsed.userinfo:
        raise ValueError("move the user name and password from the URL into the service's authentication")
    if parsed.fragment or "#" in url:
        raise ValueError("remove the fragment (#…) from the URL: it would never be sent")
    check_port(DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port)
    _check_host(parsed.raw_host.decode("ascii"))
    return parsed


def path_refusal(path: str) -> str | None:
    """Return the reason why this cannot be a path below a service's address, or None.

    Refuses ``..`` segments in every spelling that a receiver may resolve, since they leave the path of the address.
    An encoded slash alone stays: GitLab has ``/projects/group%2Fname``.
    """
    if not path.startswith("/"):
        return "a path must start with /"
    if NOT_IN_PATH.search(path):
        return "a path must not contain spaces or control characters; percent-encode them"
    if "#" in path or "?" in path:
        return "a path must not contain ? or #; put parameters into query"
    if "\\" in path:
        return "a path must not contain a backslash; percent-encode it"
    if MAY_HIDE_DOTS.search(path) and _has_dot_segment(path):
        return "a path must stay below the service's address; remove the .. segments, encoded ones too"
    return None


def _has_dot_segment(path: str) -> bool:
    decoded = path.encode("utf-8", "replace")
    for _ in range(DECODINGS):
        for overlong, plain in OVERLONG:
            decoded = decoded.replace(overlong, plain)
        # The text after ; is a parameter of the segment for Java servers; some servers drop blanks and control bytes.
        names = (re.split(rb"[;?#]", segment)[0] for segment in re.split(rb"[/\\]", decoded))
        if any(re.sub(rb"[\x00-\x20\x7f]", b"", name) == b".." for name in names):
            return True
        if (once_more := unquote_to_bytes(decoded)) == decoded:
            return False
        decoded = once_more
    return True  # encoded deeper than any honest path


def _check_host(host: str) -> None:
    if ":" in host:
        if literal(host) is None:
            raise ValueError("the text in brackets is not an IPv6 address")
        return
    name = host.removesuffix(".")
    if len(name) > NAME_LIMIT:
        raise ValueError(f"the host name must have at most {NAME_LIMIT} characters")
    for label in name.split("."):
        if len(label) > LABEL_LIMIT or not LABEL.fullmatch(label):
            raise ValueError("the host is not a valid name")
