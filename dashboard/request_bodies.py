"""How much of a request Django gets to read: its body, whole, within a limit that its path sets."""

from __future__ import annotations

from asgiref.typing import ASGIReceiveCallable as Receive
from asgiref.typing import HTTPScope
from django.conf import settings

from integrations.api.asgi.request_body import receive_body
from integrations.api.asgi.routes import Capacity, Reservation
from integrations.api.auth import BATCH_LIMIT, BODY_LIMIT, too_large
from integrations.api.json_io import api_path

PUBLIC_PAGES = ("/login/", "/logout/", "/setup/")
PUBLIC_FORM_LIMIT = 64 * 1024  # bytes; a user name, a password and where to go next

# Every byte of a body stays in memory until the response is sent. The first 64 KiB of each are not counted against
# the size, so that ordinary forms get through while large bodies use all of it: at most 128 MiB in all.
capacity = Capacity(requests=1_000, size=64 * 1024 * 1024)
UNCOUNTED = 64 * 1024


def has_body(scope: HTTPScope) -> bool:
    return _header(scope, b"content-length") not in (b"", b"0") or _header(scope, b"transfer-encoding") != b""


async def read(scope: HTTPScope, receive: Receive, reservation: Reservation) -> bytes:
    """Raises Problem(413), Problem(408), Problem(503) or ClientDisconnected."""
    is_for_api = scope["path"].startswith(api_path())
    if is_for_api and not _header(scope, b"authorization"):
        return b""  # a caller without a token writes nothing: the response is a 401
    limit = _limit_of(scope["path"], is_for_api)
    if int(_header(scope, b"content-length") or 0) > limit:
        raise too_large(limit)
    received = 0

    def reserve(size: int) -> None:
        nonlocal received
        received += size
        reservation.add(min(size, max(0, received - UNCOUNTED)))

    return await receive_body(receive, limit, reserve)


def _limit_of(path: str, is_for_api: bool) -> int:
    if is_for_api:
        return BATCH_LIMIT if path == api_path("messages", "batch") else BODY_LIMIT
    if path.startswith(PUBLIC_PAGES):
        return PUBLIC_FORM_LIMIT
    return settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0


def _header(scope: HTTPScope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")
