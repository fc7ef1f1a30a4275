"""Signatures by Standard Webhooks 1.0: a receiver can tell that a call is ours, unchanged and recent.

The signed content is ``{webhook-id}.{webhook-timestamp}.{body}``. It is signed twice: ``v1`` is HMAC-SHA256 with a
secret that the receiver shares, ``v1a`` is ed25519, which the receiver checks with a public key and cannot forge.
During the overlap of a rotation the earlier keys sign too, and a receiver accepts any signature that it can check.
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

SECRET_SIZE = 32  # random bytes; the specification requires 24 to 64
SEED_SIZE = 32  # bytes; a private key is its seed and then its public key, as in libsodium and the reference code
MAX_KEYS = 5  # pairs that sign at once: each adds 140 bytes to the header and 35 µs to the call


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """A pair of keys that sign the calls of a service."""

    secret: str = field(repr=False)  # whsec_…, shared with the receiver
    private_key: str = field(repr=False)  # whsk_…, never shown
    made_at: datetime
    valid_until: datetime | None = None  # when an earlier pair stops signing; None for the current one

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
        """``whpk_…``: a receiver checks ``v1a`` with it."""
        return f"whpk_{b64encode(_bytes(self.private_key)[SEED_SIZE:]).decode()}"

    def is_valid(self, now: datetime) -> bool:
        return self.valid_until is None or now < self.valid_until


def rotated(current: Sequence[SigningKeys], now: datetime, overlap: timedelta) -> list[SigningKeys]:
    """Return new keys, followed by the current ones that go on signing. Newest first.

    Current keys end when ``overlap`` has passed, or at their own end if that is earlier. With an overlap of 0 only the
    new keys remain.
    """
    end = now + overlap
    earlier = [replace(keys, valid_until=min(keys.valid_until or end, end)) for keys in current]
    return [SigningKeys.make(now), *(keys for keys in earlier if keys.is_valid(now))]


class Signer:
    """Sign calls with the keys of a service, which are decoded once."""

    def __init__(self, keys: Iterable[SigningKeys] = ()) -> None:
        self._keys = [
            (
                pair.valid_until,
                hmac.new(_bytes(pair.secret), digestmod=hashlib.sha256),
                Ed25519PrivateKey.from_private_bytes(_bytes(pair.private_key)[:SEED_SIZE]),
            )
            for pair in keys
        ]

    def headers(self, identifier: str, now: datetime, body: bytes) -> list[tuple[str, str]]:
        """Return ``webhook-signature`` for a call with this ``webhook-id`` at ``now``, or no header without keys."""
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
    """Decode a key with its prefix."""
    return b64decode(serialized.partition("_")[2])
