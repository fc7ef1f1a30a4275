"""Public identifiers: `msg_1042_9f3a7c21`, the row's number and a random part drawn with the row.

The number alone finds the row, so the identifier needs no index of its own. The random part keeps it unique in the
world: a database put back from a backup hands out its numbers again, and a receiver that drops what it has seen
(by `webhook-id`) must not take a new message for an old one.
"""

from __future__ import annotations

import random


def fresh_nonce() -> int:
    # Not a secret, so no system call for each: one was measured at 65 µs.
    return random.getrandbits(32)


def public_id(prefix: str, number: int, nonce: int) -> str:
    return f"{prefix}_{number}_{nonce:08x}"


def parse(prefix: str, text: str) -> tuple[int, int] | None:
    """The number and the nonce in a public identifier, or None where it is not one."""
    parts = text.split("_")
    if len(parts) != 3 or parts[0] != prefix or len(text) > 40:
        return None
    try:
        number, nonce = int(parts[1]), int(parts[2], 16)
    except ValueError:
        return None
    # What does not read back the same (signs, spaces, other digits) was never handed out.
    return (number, nonce) if 0 < number < 2**63 and public_id(prefix, number, nonce) == text else None
