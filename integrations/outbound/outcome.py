"""What one call came to, in a closed list of words.

Trouble on the wire is expected, so it is a value and not an exception: the client answers every call with an
``Outcome``, whatever the other side did.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """Why a call did not succeed. The words are fixed: docs/contract.md."""

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
    """Seconds spent in each phase; ``None`` where the phase did not happen (a reused connection has no dns)."""

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

    ``body`` holds what was kept (at most the caller's cap), ``size`` what was read off the wire in bytes, and
    ``truncated`` says that the body went on. ``detail`` is one line in words for an operator, never a secret.
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
        """The first value of a response header, by name in any case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)
