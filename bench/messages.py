"""The message that every contender sends; needs nothing but Python, because the peers' programs read it, too."""

from __future__ import annotations

import json

BODY_SIZE = 1024  # bytes


def body(number: int) -> bytes:
    """Exactly BODY_SIZE bytes of JSON that carry the number."""
    start = json.dumps({"n": number, "event": "order.created", "text": ""})[:-2]
    return f'{start}{"x" * (BODY_SIZE - len(start) - 2)}"}}'.encode()
