"""Waiting until a condition holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PAUSE = 0.05  # seconds between two looks; some of them read every process of the machine


def until(condition: Callable[[], object], within: float = 20, words: str | Callable[[], str] = "") -> float:
    """Return the seconds until the condition held; fail with the words when it does not within so many seconds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within:
            raise AssertionError(f"after {within:g} s: {words() if callable(words) else words}")
        time.sleep(PAUSE)
    return time.monotonic() - began


async def soon(condition: Callable[[], object], within: float = 20) -> None:
    """The same, while the event loop goes on."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)
