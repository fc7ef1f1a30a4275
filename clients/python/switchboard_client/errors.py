"""Errors of the client. Each is a ``SwitchboardError``."""

from __future__ import annotations

from typing import Any


class SwitchboardError(Exception):
    """A request that did not succeed."""


class Refused(SwitchboardError):
    """Switchboard refused the request, and would refuse it again: 4xx, except for 408 and 429.

    ``errors``: for a 422, the location and the text of each error, as in RFC 9457.
    """

    def __init__(self, status: int, title: str, detail: str, errors: list[dict[str, Any]]) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors


class Unavailable(SwitchboardError):
    """No attempt reached Switchboard, or none was answered, or each was answered with 408, 429 or 5xx.

    The request may have been accepted all the same. Sending it again with the same ``idempotency_key`` is safe for
    24 hours. ``idempotency_key`` is None for requests that take none. ``retry_after``: seconds that Switchboard asked
    to wait, if it did.
    """

    def __init__(self, reason: str, idempotency_key: str | None, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.idempotency_key = idempotency_key
        self.retry_after = retry_after
