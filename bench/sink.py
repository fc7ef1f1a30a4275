"""The sink as a process of its own: sink.c where there is a C compiler, else the same in Python (slower)."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("sink.c")


class Sink:
    """Listens on a free port of 127.0.0.1 until it is closed, or until this process ends."""

    def __init__(self, folder: Path) -> None:
        command = _compiled(folder) or [sys.executable, "-m", "bench.sink"]
        self.kind = "C" if command[0] != sys.executable else "Python"
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def counts(self) -> tuple[int, int]:
        """How many calls came in, and how many different messages."""
        counts = self._ask("/counts")
        return counts["calls"], counts["unique"]

    def reset(self) -> None:
        self._ask("/reset")

    def close(self) -> None:
        self._connection.close()
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=10)

    def _ask(self, path: str) -> dict[str, int]:
        self._connection.request("GET", path)
        return json.loads(self._connection.getresponse().read())


def _compiled(folder: Path) -> list[str] | None:
    if (compiler := shutil.which("cc")) is None:
        return None
    program = folder / "sink"
    subprocess.run([compiler, "-O2", "-o", program, SOURCE], check=True)
    return [str(program)]


# ---- without a compiler ---------------------------------------------------------------------------------------------
NUMBER = re.compile(rb'"n":\s*(\d+)')
ANSWER = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}"


class Receiving(asyncio.Protocol):
    calls = 0
    seen: set[int] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport, self.unread = transport, b""

    def data_received(self, data: bytes) -> None:
        self.unread += data
        while (end := self.unread.find(b"\r\n\r\n")) >= 0:
            head = self.unread[:end].lower()
            length = re.search(rb"content-length: *(\d+)", head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self.unread) < whole:
                return
            self.answer(head, self.unread[end + 4 : whole])
            self.unread = self.unread[whole:]

    def answer(self, head: bytes, body: bytes) -> None:
        text = '{"ok":true}'
        if head.startswith(b"post"):
            Receiving.calls += 1
            if found := NUMBER.search(body):
                self.seen.add(int(found[1]))
        else:
            if head.startswith(b"get /reset"):
                Receiving.calls = 0
                self.seen.clear()
            text = json.dumps({"calls": self.calls, "unique": len(self.seen)})
        self.transport.write(ANSWER.format(len(text), text).encode())


async def receive() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Receiving, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(receive())
