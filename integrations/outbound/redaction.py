"""Mask the secrets of a call before it is stored or shown.

Two methods, because each alone has gaps. Header and parameter *names* tell where credentials are, also those that a
user wrote into a plain header. The service's own secret *values* are masked wherever they appear: in a URL, in a
response that echoes the request, percent-encoded, JSON-escaped or inside base64 (``Basic`` is base64 of
``user:password``).
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "••••"
NAMED_LENGTH = 4 * 1024  # characters
SHORTEST_PARAMETER = 8  # characters; a shorter one is more likely a word, such as of ?sort_key=name
SHORTEST_SECRET = 4  # characters; a shorter one is masked only as a whole value, or it would mask half of any text

SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"})
SECRET_HEADER = re.compile(r"(^|[-_])(token|secret|key|apikey|password|credentials?)$|signature", re.IGNORECASE)
PLAIN_HEADERS = frozenset({"idempotency-key"})  # it names a request, and operators search for it
SECRET_PARAMETER = re.compile(
    r"token|secret|passw|pwd|signature|credential|api_?-?key|access_?-?key|(^|[-_.])(key|sig|auth)$", re.IGNORECASE
)
SCHEMES = frozenset(
    {"basic", "bearer", "digest", "token", "apikey", "negotiate", "hmac", "signature", "aws4-hmac-sha256"}
)
# Characters. A cache holds no longer text: one request brought it, and 1,024 of them would fill the memory for good.
CACHED_LENGTH, CACHED_NAME_LENGTH = 8 * 1024, 256
BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")


def redacted_headers(headers: Iterable[tuple[str, str]], secrets: Iterable[str]) -> list[list[str]]:
    """Return the headers as ``[[name, value]]`` with credentials masked. The scheme stays (``Bearer ••••``)."""
    secrets = tuple(secrets)
    return [[redacted_text(name, secrets), _header_value(name, value, secrets)] for name, value in headers]


def _header_value(name: str, value: str, secrets: tuple[str, ...]) -> str:
    if names_a_secret(name) or value in secrets or redacted_text(value, secrets) != value:
        scheme, _, rest = value.strip().partition(" ")
        return f"{scheme} {MASK}" if rest and scheme.lower() in SCHEMES else MASK
    return value


def names_a_secret(name: str) -> bool:
    """Whether a header of this name carries a credential."""
    judge = _is_secret_header if len(name) <= CACHED_NAME_LENGTH else _is_secret_header.__wrapped__
    return judge(name.lower())


@lru_cache(maxsize=4096)  # every call has the same few names
def _is_secret_header(lower: str) -> bool:
    return lower in SECRET_HEADERS or (lower not in PLAIN_HEADERS and bool(SECRET_HEADER.search(lower)))


def redacted_url(url: str, secrets: Iterable[str] = ()) -> str:
    """Return the URL with user and password, parameters that look like credentials, and the secrets masked."""
    mask = _without_credentials if len(url) <= CACHED_LENGTH else _without_credentials.__wrapped__
    return redacted_text(mask(url), secrets)


@lru_cache(maxsize=1024)  # a service's messages mostly go to the same few URLs
def _without_credentials(url: str) -> str:
    base, hash_mark, fragment = url.partition("#")
    base, question_mark, query = base.partition("?")
    base = re.sub(r"^([^/?#]*//)[^/?#]*@", rf"\g<1>{MASK}@", base)
    return base + question_mark + _parameters(query) + hash_mark + _parameters(fragment)


def _parameters(query: str) -> str:
    return "&".join(_parameter(part) for part in query.split("&"))


def _parameter(part: str) -> str:
    name, equals, value = part.partition("=")
    return f"{name}={MASK}" if equals and value and SECRET_PARAMETER.search(unquote(name)) else part


def redacted_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return query parameters with those masked that look like credentials."""
    return {name: MASK if value and SECRET_PARAMETER.search(name) else value for name, value in query.items()}


def named_secrets(headers: Iterable[tuple[str, str]], url: str) -> tuple[str, ...]:
    """Return the values of a call that its headers and parameters name as credentials, for masking them in a response.

    At most 4 KiB together, so that a request cannot make masking slow; longer ones are masked by their names only.
    """
    found: dict[str, None] = {}
    length = 0
    for value in (*_header_secrets(headers), *_parameter_secrets(url)):
        length += len(value)
        if length > NAMED_LENGTH:
            break
        found[value] = None
    return tuple(found)


def _header_secrets(headers: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, value in headers:
        if not names_a_secret(name) or name.lower() == "webhook-signature":  # ours, and no secret
            continue
        scheme, _, rest = value.strip().partition(" ")
        if name.lower() == "cookie":
            yield from (part.partition("=")[2].strip() for part in value.split(";"))
        elif not rest or scheme.lower() not in SCHEMES:
            yield value
        else:
            yield rest.strip()
            if scheme.lower() == "basic":
                yield _password(rest.strip())


def _password(pair: str) -> str:
    try:
        return b64decode(pair, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _parameter_secrets(url: str) -> Iterator[str]:
    query = url.partition("#")[0].partition("?")[2]
    for name, _, value in (part.partition("=") for part in query.split("&")):
        if SECRET_PARAMETER.search(unquote(name)) and len(plain := unquote_plus(value)) >= SHORTEST_PARAMETER:
            yield plain


def redacted_text(text: str, secrets: Iterable[str]) -> str:
    """Return the text with every secret masked, in each common encoding."""
    if not (secrets := tuple(secrets)):
        return text
    return redacted_bytes(text.encode("utf-8", "surrogatepass"), secrets).decode("utf-8", "surrogatepass")


def redacted_bytes(content: bytes, secrets: Iterable[str]) -> bytes:
    """Return a body with every secret masked. Cut it afterwards, or half of a secret could be left at the end."""
    mask = MASK.encode()
    secrets = tuple(secrets)
    find = _needles if sum(map(len, secrets)) <= CACHED_LENGTH else _needles.__wrapped__
    for spellings, cores in find(secrets):
        for spelling in spellings:
            content = content.replace(spelling, mask)
        for core in cores:
            content = _without_runs(content, core, mask)
    return content


@lru_cache(maxsize=256)  # every header of every call is searched for a service's secrets
def _needles(secrets: tuple[str, ...]) -> tuple[tuple[tuple[bytes, ...], tuple[bytes, ...]], ...]:
    """Return for each secret its spellings, and the part that it always leaves inside base64."""
    # Longest first: a secret may contain another.
    longest_first = sorted({secret for secret in secrets if len(secret) >= SHORTEST_SECRET}, key=len, reverse=True)
    return tuple((tuple(_spellings(secret)), tuple(_base64_cores(secret.encode()))) for secret in longest_first)


def _spellings(secret: str) -> list[bytes]:
    escaped = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    forms = {
        secret,
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        *escaped,
        escaped[0].replace("/", "\\/"),
    }
    forms |= {re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in forms}
    return sorted((form.encode() for form in forms), key=len, reverse=True)


def _base64_cores(secret: bytes) -> Iterator[bytes]:
    """Yield for each of three alignments the part of its base64 that does not depend on the bytes around it."""
    for before, drop in ((0, 0), (1, 2), (2, 3)):
        whole = (before + len(secret)) * 8 // 6  # characters made of known bits only
        core = b64encode(b"\0" * before + secret)[drop:whole]
        if len(core) >= SHORTEST_SECRET:
            yield core
            if core != (urlsafe := core.translate(bytes.maketrans(b"+/", b"-_"))):
                yield urlsafe


def _without_runs(content: bytes, core: bytes, mask: bytes) -> bytes:
    """Mask every base64 run that contains ``core``. Finds first and widens then, so the time is linear in the body."""
    kept: list[bytes] = []
    done = 0
    while (found := content.find(core, done)) >= 0:
        start, end = found, found + len(core)
        while start > done and content[start - 1] in BASE64:
            start -= 1
        while end < len(content) and content[end] in BASE64:
            end += 1
        kept += (content[done:start], mask)
        done = end
    return b"".join((*kept, content[done:]))
