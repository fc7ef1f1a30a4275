"""Public identifiers: `msg_1042_9f3a7c21`, the row's id and a random part that is stored with the row.

The id alone finds the row, so the identifier needs no index of its own. The random part keeps it unique in the world: a
database restored from a backup hands out the same ids again, and a receiver that drops repeated `webhook-id` values
must not mistake a new message for an old one.
"""

from __future__ import annotations

import random


def fresh_nonce() -> int:
    # Not a secret, so no system call for each: a call took 65 µs.
    return random.getrandbits(32)


def public_id(prefix: str, number: int, nonce: int) -> str:
    return f"{prefix}_{number}_{nonce:08x}"


def parse(prefix: str, text: str) -> tuple[int, int] | None:
    """The id and the nonce in a public identifier, or None if the text is no identifier."""
    parts = text.split("_")
    if len(parts) != 3 or parts[0] != prefix or len(text) > 40:
        return None
    try:
        number, nonce = int(parts[1]), int(parts[2], 16)
    except ValueError:
        return None
    # A text that does not read back the same (signs, spaces, other digits) was never handed out.
    return (number, nonce) if 0 < number < 2**63 and public_id(prefix, number, nonce) == text else None
