"""The result of one call as a value: a response, or a fault from a closed list of words.

Network failures are expected, so they are values and not exceptions: the client returns an ``Outcome`` for every call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """The reason why a call did not succeed, from a fixed set of words (docs/contract.md)."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    RESET = "reset"
    PROTOCOL = "protocol"
    TOO_LARGE = "too_large"
    BLOCKED = "blocked"
    STATUS = "status"
    CONFIG = "config"
    WORKER_LOST = "worker_lost"


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent in each phase, None for a phase that did not happen: a reused connection has no dns."""

    dns: float | None = None
    connect: float | None = None
    tls: float | None = None
    first_byte: float | None = None
    total: float = 0.0

    def as_json(self) -> dict[str, float | None]:
        return {
            name: None if (value := getattr(self, name)) is None else round(value, 6)
            for name in ("dns", "connect", "tls", "first_byte", "total")
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one call.

    ``body`` is the response's body up to the caller's cap, ``size`` the bytes that were read from the network, and
    ``truncated`` says that the body was longer. ``detail`` is one line of text for an operator, without secrets.
    """

    fault: Fault | None = None
    status_code: int | None = None
    detail: str = ""
    timings: Timings = field(default_factory=Timings)
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    truncated: bool = False
    size: int = 0
    peer: str = ""

    @property
    def succeeded(self) -> bool:
        return self.fault is None

    @property
    def duration(self) -> float:
        """Seconds from the start of the call to its end."""
        return self.timings.total

    def header(self, name: str) -> str | None:
        """Return the first value of a response header; the name in any case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)
