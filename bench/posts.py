"""Posts messages over kept connections for some seconds: `python -m bench.posts PLAN`, which prints what it found.

The plan is JSON: {"port", "path", "token"?, "connections", "seconds", "batch"?, "keys"?, "first"?}. Each request has
a body of its own and, with ``keys``, an Idempotency-Key of its own. Requests in flight at the end are waited for, so
that the responses can be compared with the rows.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from itertools import count
from typing import Any

import uvloop

from bench.messages import body

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
MESSAGE = b'{"service":"ingest","path":"/in","body":%b}'


class Posting(asyncio.Protocol):
    """One connection: the next request goes out when the last was answered."""

    def __init__(self, plan: dict[str, Any], found: Found, ended: asyncio.Future[None]) -> None:
        self.plan, self.found, self.ended = plan, found, ended
        self.unread = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.post()

    def post(self) -> None:
        number = next(self.found.numbers)
        content = MESSAGE % body(number)
        if batch := self.plan.get("batch"):
            entries = b",".join(MESSAGE % body(number * batch + one) for one in range(batch))
            content = b'{"messages":[%b]}' % entries
        head = [f"POST {self.plan['path']} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        head.append(f"Content-Length: {len(content)}")
        if token := self.plan.get("token"):
            head.append(f"Authorization: Bearer {token}")
        if self.plan.get("keys"):
            head.append(f"Idempotency-Key: post-{number}")
        self.began = time.perf_counter()
        self.transport.write("\r\n".join(head).encode() + b"\r\n\r\n" + content)

    def data_received(self, data: bytes) -> None:
        self.unread += data
        if (end := self.unread.find(b"\r\n\r\n")) < 0:
            return
        length = LENGTH.search(self.unread, 0, end)
        if length is None:
            raise RuntimeError(f"an answer without a length: {self.unread[:300]!r}")
        if len(self.unread) < end + 4 + int(length[1]):
            return
        self.found.statuses[self.unread[9:12].decode()] += 1
        self.found.latencies.append(time.perf_counter() - self.began)
        self.unread = b""
        if time.perf_counter() < self.found.until:
            self.post()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class Found:
    def __init__(self, first: int, until: float) -> None:
        self.numbers = count(first)
        self.until = until
        self.latencies: list[float] = []
        self.statuses: Counter[str] = Counter()


async def post(plan: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    found = Found(plan.get("first", 0), began + plan["seconds"])
    ends = []
    for _ in range(plan["connections"]):
        ends.append(loop.create_future())
        await loop.create_connection(lambda: Posting(plan, found, ends[-1]), "127.0.0.1", plan["port"])
    await asyncio.gather(*ends)
    seconds = time.perf_counter() - began
    ordered = sorted(found.latencies)
    return {
        "statuses": found.statuses,
        "requests": len(ordered),
        "rate": len(ordered) / seconds,
        "p50": ordered[len(ordered) // 2] * 1000,
        "p99": ordered[int(len(ordered) * 0.99)] * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(post(json.loads(sys.argv[1])))))
