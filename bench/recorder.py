"""A receiver that remembers when each call came: recorder.c in a process of its own. It needs a C compiler."""

from __future__ import annotations

import http.client
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("recorder.c")
ROW = struct.Struct("=IIQQII")


@dataclass(frozen=True, slots=True)
class Received:
    """One call. Times are seconds since the epoch; ``answered`` is 0 where the caller went away."""

    stream: int
    number: int  # the "n" of its body
    at: float
    answered: float
    status: int
    together: int  # calls of its stream under way when it came, itself included


class Recorder:
    """Listens until it is closed, or until this process ends. ``inside`` goes before its command: `ip netns exec X`."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", inside: Iterable[str] = ()) -> None:
        program = folder / "recorder"
        if not program.exists():
            subprocess.run(["cc", "-O2", "-o", program, SOURCE], check=True)
        self.address = address
        self._process = subprocess.Popen(
            [*inside, program, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())

    def url(self, stream: int, *, delay: float = 0, failing: int = 0) -> str:
        """Where calls are answered after ``delay`` seconds, ``failing`` percent of them with 503."""
        return f"http://{self.address}:{self.port}/{stream}/{round(delay * 1000)}/{failing}"

    def count(self) -> int:
        return int(self._ask("/count"))

    def calls(self) -> list[Received]:
        """All calls in the order in which they came."""
        return [
            Received(stream, number, at / 1e6, answered / 1e6, status, together)
            for stream, number, at, answered, status, together in ROW.iter_unpack(self._ask("/log"))
        ]

    def reset(self) -> None:
        self._ask("/reset")

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=10)

    def _ask(self, path: str) -> bytes:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=30)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()
