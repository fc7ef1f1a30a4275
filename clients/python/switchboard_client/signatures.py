"""Verify that a call comes from Switchboard, unchanged and recent, by Standard Webhooks 1.0.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping

LONGEST_TIME = 20  # digits; Python refuses to read thousands of them, with another error
TOLERANCE = 300.0  # seconds, as in the reference libraries; Switchboard signs each attempt with its own time


class InvalidSignature(Exception):
    """The call is not signed with one of the keys, was changed on its way, or is too old."""


def verify(
    body: bytes,
    headers: Mapping[str, str],
    keys: str | Iterable[str],
    *,
    tolerance: float = TOLERANCE,
    now: float | None = None,
) -> str:
    """Return the ``webhook-id`` of a call that one of the keys has signed. Drop a call whose id you have processed.

    ``body``: the bytes as they arrived, before any parsing. ``keys``: secrets (``whsec_…``, HMAC) and public keys
    (``whpk_…``, ed25519; needs ``switchboard-client[ed25519]``). While a secret is rotated, Switchboard signs with both
    and you may hold both, so that neither side has to change first. ``tolerance``: seconds that the call's time may
    differ from ``now`` (seconds since 1970). Raises InvalidSignature.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        identifier, moment = given["webhook-id"], given["webhook-timestamp"]
        signatures = given["webhook-signature"]
    except KeyError as missing:
        raise InvalidSignature(f"the header {missing.args[0]} is missing") from None
    if not (moment.isascii() and moment.isdigit() and len(moment) <= LONGEST_TIME):
        raise InvalidSignature("webhook-timestamp must be a number of seconds")
    if abs((time.time() if now is None else now) - int(moment)) > tolerance:
        raise InvalidSignature(f"webhook-timestamp differs from the clock by more than {tolerance:g} s")
    content = f"{identifier}.{moment}.".encode() + body
    for key in [keys] if isinstance(keys, str) else keys:
        if _has_signed(key, content, signatures.split(" ")):
            return identifier
    raise InvalidSignature("no signature matches")


def _has_signed(key: str, content: bytes, signatures: Iterable[str]) -> bool:
    kind, _, encoded = key.partition("_")
    if kind == "whsec":
        expected = hmac.digest(b64decode(encoded), content, hashlib.sha256)
        return any(hmac.compare_digest(expected, signed) for signed in _of_version("v1", signatures))
    if kind == "whpk":
        return any(_is_ed25519(encoded, content, signed) for signed in _of_version("v1a", signatures))
    raise ValueError("a key begins with whsec_ or whpk_")


def _of_version(version: str, signatures: Iterable[str]) -> Iterable[bytes]:
    for signature in signatures:
        given, _, encoded = signature.partition(",")
        if given == version:
            try:
                yield b64decode(encoded, validate=True)
            except (Base64Error, ValueError):
                continue


def _is_ed25519(encoded: str, content: bytes, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature as NotSigned
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(b64decode(encoded)).verify(signed, content)
    except NotSigned:
        return False
    return True
