"""Signatures by Standard Webhooks 1.0: a receiver can tell that a call is ours, unchanged and recent.

Signed is ``{webhook-id}.{webhook-timestamp}.{body}``, twice: ``v1`` is HMAC-SHA256 with a secret that the receiver
shares, ``v1a`` is ed25519, which the receiver checks with a public key and cannot forge. During a rotation's overlap
the earlier keys sign too, and a receiver takes whichever signature it can check.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SECRET_SIZE = 32  # random bytes; the specification asks for 24 to 64
SEED_SIZE = 32  # a private key is its seed followed by its public key, as libsodium and the specification's libraries
MOST_KEYS = 5  # pairs that sign at once: each adds 140 bytes to the header and 35 µs to the call


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """What a service's calls are signed with."""

    secret: str = field(repr=False)  # whsec_…, shared with the receiver
    private_key: str = field(repr=False)  # whsk_…, never shown
    made_at: datetime
    valid_until: datetime | None = None  # when an earlier pair stops to sign; None for the one in force

    @classmethod
    def make(cls, now: datetime) -> SigningKeys:
        private = Ed25519PrivateKey.generate()
        pair = private.private_bytes_raw() + private.public_key().public_bytes_raw()
        return cls(
            secret=f"whsec_{b64encode(secrets.token_bytes(SECRET_SIZE)).decode()}",
            private_key=f"whsk_{b64encode(pair).decode()}",
            made_at=now,
        )

    @property
    def public_key(self) -> str:
        """``whpk_…``: what a receiver checks ``v1a`` with."""
        return f"whpk_{b64encode(_bytes(self.private_key)[SEED_SIZE:]).decode()}"

    def is_valid(self, now: datetime) -> bool:
        return self.valid_until is None or now < self.valid_until


def rotated(present: Sequence[SigningKeys], now: datetime, overlap: timedelta) -> list[SigningKeys]:
    """New keys, and before them those that go on signing until ``overlap`` has passed, or until the earlier end that
    they had already. Newest first; nothing is kept with an overlap of 0."""
    end = now + overlap
    earlier = [replace(keys, valid_until=min(keys.valid_until or end, end)) for keys in present]
    return [SigningKeys.make(now), *(keys for keys in earlier if keys.is_valid(now))]


class Signer:
    """Signs calls with a service's keys, which are decoded once."""

    def __init__(self, keys: Iterable[SigningKeys] = ()) -> None:
        self._keys = [
            (
                one.valid_until,
                hmac.new(_bytes(one.secret), digestmod=hashlib.sha256),
                Ed25519PrivateKey.from_private_bytes(_bytes(one.private_key)[:SEED_SIZE]),
            )
            for one in keys
        ]

    def headers(self, identifier: str, now: datetime, body: bytes) -> list[tuple[str, str]]:
        """``webhook-signature`` for a call with this ``webhook-id`` and the time ``now``; nothing without keys."""
        if not self._keys:
            return []
        content = b"%b.%d.%b" % (identifier.encode(), int(now.timestamp()), body)
        signatures = []
        for valid_until, shared, private in self._keys:
            if valid_until is None or now < valid_until:
                keyed = shared.copy()
                keyed.update(content)
                signatures += [_signature("v1", keyed.digest()), _signature("v1a", private.sign(content))]
        return [("webhook-signature", " ".join(signatures))]


def _signature(version: str, signed: bytes) -> str:
    return f"{version},{b64encode(signed).decode()}"


def _bytes(serialized: str) -> bytes:
    """Of a key with its prefix."""
    return b64decode(serialized.partition("_")[2])
