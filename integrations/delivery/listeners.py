"""Where this installation listens, known to each process without a query for each call.

The console's ports come from the database, where each web server announces them, and from SWITCHBOARD_OWN_PORT; those
of PostgreSQL and Redis come from the settings. Workers refresh with their heartbeat, and a web server before a call if
it has not done so for five seconds.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from integrations.models import WebServer, database_now, sql
from integrations.outbound.own_listeners import Listener, OwnListeners, own_listeners, parse_listener

FRESH_FOR = 5.0  # seconds
NAMES_FRESH_FOR = 60.0  # seconds between look-ups of the names in the settings
FIRST_LOOK_UP = 2.0  # seconds that the first refresh of a process waits for them
POSTGRES_PORT, REDIS_PORT = 5432, 6379


def known() -> OwnListeners:
    """Return the listeners as of the last refresh, the same object while nothing changes. Needs no database."""
    return _state.known or _remember(own_listeners(_configured()))


def refresh(now: datetime | None = None) -> None:
    """Read the announcements. ``now``: the database's time. Raises DatabaseError, and then changes nothing."""
    _names.look_up({host for _, host, _ in _named() if host})
    announced = list(WebServer.objects.announced(now or database_now()))
    _remember(own_listeners([*_configured(), *_announced(announced), *_connected()]))
    _state.refreshed_at = time.monotonic()


def refresh_if_old() -> None:
    if time.monotonic() - _state.refreshed_at > FRESH_FOR:
        refresh()


def forget() -> None:
    """Start again, as a new process does: for tests."""
    _state.__init__()  # type: ignore[misc]
    _names.__init__()  # type: ignore[misc]


class _State:
    def __init__(self) -> None:
        self.known: OwnListeners | None = None
        self.refreshed_at = float("-inf")


_state = _State()


def _remember(found: OwnListeners) -> OwnListeners:
    """A new object closes the idle connections of the process, so equal ones keep the old."""
    if _state.known is None or _state.known != found:
        _state.known = found
    return _state.known


# ---- what listens ---------------------------------------------------------------------------------------------------
def _configured() -> Iterator[Listener]:
    for owner, host, port in _named():
        yield Listener(owner, port, host, _names.addresses(host), is_here=not host)


def _announced(servers: list[WebServer]) -> Iterator[Listener]:
    for server in servers:
        is_here = server.host == socket.gethostname()
        yield Listener("console", server.port, addresses=tuple(server.addresses), is_here=is_here)


def _connected() -> Iterator[Listener]:
    """The PostgreSQL that this process is connected with, also where libpq has it from its own environment."""
    if (server := sql.server_address()) is not None:
        address, port = server
        yield Listener("database", port, addresses=(address,))


def _named() -> Iterator[tuple[str, str, int]]:
    """Owner, host ("" is this machine) and port of each listener in the settings. Unix sockets have none."""
    for text in settings.OWN_PORTS:
        host, port = parse_listener(text)
        yield "console", host, port
    if not settings.EMBEDDED:
        yield from _databases(settings.DATABASES["default"])
        yield from _databases(settings.DIRECT_DATABASE or {})
    if settings.REDIS_URL and not settings.REDIS_URL.startswith("unix:"):
        url = urlsplit(settings.REDIS_URL)
        yield "Redis", url.hostname or "localhost", url.port or REDIS_PORT


def _databases(database: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    options = database.get("OPTIONS", {})
    hosts = str(database.get("HOST") or options.get("host") or "").split(",")  # libpq tries each of a list
    ports = str(database.get("PORT") or options.get("port") or POSTGRES_PORT).split(",")
    for number, host in enumerate(hosts):
        if host and not host.startswith(("/", "@")):
            yield "database", host, int((ports[number] if len(ports) == len(hosts) else ports[0]) or POSTGRES_PORT)


# ---- their names ----------------------------------------------------------------------------------------------------
class _Names:
    """The addresses of the hosts in the settings, looked up in a thread: a dead resolver takes half a minute, for which
    the claims of a lane would wait. The last answers are kept until there are new ones."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, ...]] = {}
        self._looked_at = float("-inf")
        self._lock = threading.Lock()

    def addresses(self, host: str) -> tuple[str, ...]:
        return self._found.get(host, ())

    def look_up(self, hosts: set[str]) -> None:
        with self._lock:
            if not hosts or time.monotonic() - self._looked_at < NAMES_FRESH_FOR:
                return
            is_first, self._looked_at = not self._found, time.monotonic()
        thread = threading.Thread(target=self._look_up, args=(hosts,), name="own-names", daemon=True)
        thread.start()
        if is_first:
            thread.join(FIRST_LOOK_UP)

    def _look_up(self, hosts: set[str]) -> None:
        for host in hosts:
            try:
                answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                continue
            self._found[host] = tuple(sorted({str(answer[4][0]) for answer in answers}))


_names = _Names()
