"""JSON whose numbers stay as they were written: ``1e3`` stays ``1e3``, and a long decimal keeps its digits."""

from __future__ import annotations

import json
import re
from secrets import token_hex
from typing import Any

PLACE = f"number-{token_hex(16)}:"  # no body can contain it
PLACED = re.compile(rf'"{PLACE}([^"]+)"')


class WrittenNumber(float):
    """A number that Python would write in another way than its sender did. It is equal to the float of its text."""

    text: str

    def __new__(cls, text: str) -> WrittenNumber:
        number = super().__new__(cls, text)
        number.text = text
        return number


def parse_float(text: str) -> float:
    """Read a JSON number with a fraction or an exponent, for `json.JSONDecoder`."""
    number = float(text)
    return number if repr(number) == text else WrittenNumber(text)


def parse_int(text: str) -> float:
    """Read any other JSON number; Python's integers lose only the sign of ``-0``."""
    return WrittenNumber(text) if text == "-0" else int(text)


def parse(raw: bytes) -> Any:
    """Parse JSON text. Raises ValueError."""
    return _decode(raw.decode())


_decode = json.JSONDecoder(parse_float=parse_float, parse_int=parse_int).decode


def compact(value: Any) -> bytes:
    """Serialise to compact JSON. Raises ValueError for NaN and infinity."""
    is_rewritten = _has_written(value)
    text = json.dumps(
        _placed(value) if is_rewritten else value, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
    return (PLACED.sub(r"\1", text) if is_rewritten else text).encode()


def _has_written(value: Any) -> bool:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, WrittenNumber):
            return True
    return False


def _placed(value: Any) -> Any:
    """Put a string in the place of each written number: `json` writes every float in its own way."""
    if isinstance(value, dict):
        return {name: _placed(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_placed(item) for item in value]
    if isinstance(value, WrittenNumber) and abs(value) != float("inf"):
        return PLACE + value.text
    return value
