"""The sandbox: six upstreams with good and bad behaviour, their services, and some traffic.

::

    register_services   create the services and endpoints once; later changes by operators stay
    add_receiver        the healthy one alone, for a newcomer's first message
    Upstreams           the server behind them: one port, one path per upstream
    Traffic             a few messages a second, limited in number and in backlog

`manage.py demo` runs all of it. Each `manage.py up` serves the upstreams while a sandbox service is registered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random, SystemRandom
from time import monotonic
from typing import Any

from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone

from integrations.logs import line
from integrations.models import Draft, Endpoint, Message, Service, Source
from integrations.registration import endpoints, registry
from integrations.schemas.message import json_bytes
from integrations.schemas.service import EndpointIn, ServiceIn

log = logging.getLogger("switchboard.sandbox")

ACTOR = "demo"
PORT = 8090  # tried first, so that the services keep their addresses over restarts
PREFIX = "sandbox-"
HEAD_LIMIT = 64 * 1024  # bytes of a request's head
BODY_LIMIT = 2 * 1024 * 1024  # bytes; more than a message may carry

SLOWNESS = (1.0, 3.0)  # seconds, from and to
FLAKINESS = 0.2  # share of the calls that fail
CALLS_ALLOWED, CALLS_PER = 2, 1.0  # calls per seconds before the rate-limiting upstream refuses

PAUSE = 0.35  # seconds between messages
LIVELY = 1_800  # messages at that pace, about ten minutes
QUIET_PAUSE = 5.0  # seconds between messages after that
WAITING_LIMIT = 30  # unfinished messages of a service at which it gets no more
STALE_AFTER = timedelta(minutes=4)  # after which undelivered messages expire


# ---- the services ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SandboxService:
    """One upstream with its registration. ``weight`` is its share of the traffic."""

    behaviour: str
    description: str
    tags: list[str]
    weight: int
    endpoints: tuple[tuple[str, str, str, str], ...]  # name, method, path, description
    policy: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return PREFIX + self.behaviour

    def registration(self, port: int) -> ServiceIn:
        return ServiceIn.model_validate(
            {
                "name": self.name,
                "base_url": f"http://127.0.0.1:{port}/{self.behaviour}",
                "description": self.description,
                "owner": "Sandbox of make demo",
                "tags": ["sandbox", *self.tags],
                "network": {"allow_private": ["127.0.0.0/8"], "reason": "The sandbox runs on this machine."},
                **self.policy,
            }
        )


SANDBOX = (
    SandboxService(
        "healthy",
        "Responds with 200 at once. Messages of one customer keep their order.",
        ["orders"],
        5,
        (
            ("order-created", "POST", "/orders", "A customer placed an order."),
            ("order-paid", "POST", "/orders/paid", "The order was paid."),
            ("order-shipped", "PUT", "/orders/shipped", "The order was shipped."),
        ),
        {"ordering": "key"},
    ),
    SandboxService(
        "slow",
        "Responds with 200 after one to three seconds.",
        ["reports"],
        1,
        (
            ("report-requested", "POST", "/reports", "Request a monthly report."),
            ("export", "POST", "/exports", "Request an export."),
        ),
        {"timeout": {"connect": 2, "total": 10}, "limits": {"concurrency": 4}},
    ),
    SandboxService(
        "flaky",
        "Fails one call in five with 500; a retry delivers the message.",
        ["invoices"],
        3,
        (
            ("invoice-issued", "POST", "/invoices", "An invoice was issued."),
            ("invoice-voided", "DELETE", "/invoices", "An invoice was voided."),
        ),
        {"retry": {"max_attempts": 6, "initial": 2, "factor": 2, "max": 30}},
    ),
    SandboxService(
        "down",
        "Always responds with 503. The breaker opens after three failures and probes 15 to 60 seconds apart.",
        ["stock"],
        1,
        (
            ("stock-changed", "POST", "/stock", "The stock of an item changed."),
            ("stock-level", "GET", "/stock", "Read the stock of an item."),
        ),
        {
            "retry": {"max_attempts": 4, "initial": 5, "factor": 2},
            "breaker": {"consecutive_failures": 3, "open_for": 15, "open_factor": 2, "open_max": 60},
        },
    ),
    SandboxService(
        "rate-limiting",
        f"Responds with 429 and Retry-After to more than {CALLS_ALLOWED} calls a second.",
        ["mail"],
        3,
        (
            ("mail-queued", "POST", "/mail", "Send a mail to a customer."),
            ("digest", "POST", "/digest", "Send the weekly digest."),
        ),
        {"retry": {"max_attempts": 10, "initial": 1, "factor": 2, "max": 20}},
    ),
    SandboxService(
        "garbage",
        "Sends garbage, a truncated response or nothing, then closes the connection.",
        ["legacy"],
        1,
        (("price-list", "POST", "/prices", "Update the price list."),),
        {
            "retry": {"max_attempts": 3, "initial": 3, "factor": 2},
            "breaker": {"consecutive_failures": 4, "open_for": 20, "open_max": 60},
        },
    ),
)


def register_services(port: int) -> list[Service]:
    """Register missing services and point all of them to ``port``. Their other settings stay as operators left them."""
    return [_registered(sandbox, port) for sandbox in SANDBOX]


def add_receiver(actor: str) -> Service | None:
    """Register the healthy upstream for a first message; None if no port is free. `manage.py up` starts it."""
    port = registered_port() or free_port(PORT)
    return _registered(SANDBOX[0], port, actor) if port else None


def registered_port() -> int | None:
    """Return the port of the registered sandbox services, or None without any."""
    names = [sandbox.name for sandbox in SANDBOX]
    for url in Service.objects.filter(name__in=names).values_list("base_url", flat=True):
        if found := re.match(r"http://127\.0\.0\.1:(\d+)/", url):
            return int(found[1])
    return None


def free_port(wanted: int) -> int | None:
    """Return the wanted port if it is free, else any free port; None if there is none."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    return None


def _registered(sandbox: SandboxService, port: int, actor: str = ACTOR) -> Service:
    registration = sandbox.registration(port)
    service = Service.objects.filter(name=sandbox.name).first()
    if service is None:
        service = registry.register(registration, actor=actor, source=Source.FORM, may_allow_private=True)
        for endpoint in _endpoints(sandbox):
            endpoints.save(service, endpoint, actor=actor)
    elif service.base_url != registration.base_url:
        registry.change(service, registration, {"base_url"}, actor=actor)
    return service


def _endpoints(sandbox: SandboxService) -> list[EndpointIn]:
    return [
        EndpointIn(
            name=name,
            method=method,
            path=path,
            description=description,
            body="" if method == "GET" else json.dumps(SampleOrder(Random(name)).body(name), indent=2),  # noqa: S311
        )
        for name, method, path, description in sandbox.endpoints
    ]


# ---- the upstreams --------------------------------------------------------------------------------------------------
class Upstreams:
    """An HTTP server for all six upstreams. The first part of the path selects the upstream."""

    def __init__(self, random: Random | None = None) -> None:
        self.port = 0
        self._random = random or SystemRandom()
        self._recent_calls: deque[float] = deque()
        self._server: asyncio.Server | None = None
        self._behaviours: dict[str, Callable[[], Awaitable[bytes]]] = {
            "healthy": self._healthy,
            "slow": self._slow,
            "flaky": self._flaky,
            "down": self._down,
            "rate-limiting": self._rate_limiting,
            "garbage": self._garbage,
        }

    async def start(self, port: int = 0) -> None:
        """Listen on 127.0.0.1. Port 0 takes any free port; ``self.port`` is then its number."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=HEAD_LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (behaviour := await _request(reader)) is not None:
                respond = self._behaviours.get(behaviour)
                writer.write(await respond() if respond else _response("404 Not Found", {"error": "no such upstream"}))
                await writer.drain()
                if behaviour == "garbage":
                    break
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client disconnected, or does not speak HTTP
        finally:
            writer.close()

    # ---- one response each -----------------------------------------------------------------------------------------
    async def _healthy(self) -> bytes:
        return _response("200 OK", {"accepted": True})

    async def _slow(self) -> bytes:
        await asyncio.sleep(self._random.uniform(*SLOWNESS))
        return _response("200 OK", {"accepted": True, "queued": True})

    async def _flaky(self) -> bytes:
        if self._random.random() < FLAKINESS:
            return _response("500 Internal Server Error", {"error": "deadlock detected, try again"})
        return _response("200 OK", {"accepted": True})

    async def _down(self) -> bytes:
        return _response("503 Service Unavailable", {"error": "maintenance"})

    async def _rate_limiting(self) -> bytes:
        now = monotonic()
        while self._recent_calls and self._recent_calls[0] <= now - CALLS_PER:
            self._recent_calls.popleft()
        if len(self._recent_calls) >= CALLS_ALLOWED:
            return _response("429 Too Many Requests", {"error": "slow down"}, "Retry-After: 1\r\n")
        self._recent_calls.append(now)
        return _response("200 OK", {"accepted": True})

    async def _garbage(self) -> bytes:
        whole = _response("200 OK", {"prices": ["9.99"] * 20})
        garbage = b"\x00\xff\x13" + self._random.randbytes(60) + b"\r\n\r\n"
        return self._random.choice([garbage, whole[:-100], b""])


async def _request(reader: asyncio.StreamReader) -> str | None:
    """Read a whole request. Return the first part of its path, or None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    request_line, *headers = head.decode("latin-1").split("\r\n")
    named = {name.strip().lower(): value.strip() for name, _, value in (header.partition(":") for header in headers)}
    length = int(named.get("content-length", "0"))
    if not 0 <= length <= BODY_LIMIT:
        raise ValueError("no such length")
    await reader.readexactly(length)
    return request_line.split(" ")[1].split("?")[0].strip("/").partition("/")[0]


def _response(status: str, body: dict[str, Any], headers: str = "") -> bytes:
    content = json_bytes(body)
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
    return head.encode() + content


# ---- the traffic ----------------------------------------------------------------------------------------------------
class SampleOrder:
    """A random order of a random customer, for bodies, tags and ordering keys."""

    def __init__(self, random: Random) -> None:
        self.customer = f"cus_{random.randrange(1, 41):04}"
        self.order = f"ord_{random.randrange(10_000, 99_999)}"
        self.region = random.choice(("eu", "us", "apac"))
        self.plan = random.choice(("free", "team", "team", "enterprise"))
        self.lines: list[dict[str, Any]] = [
            {"sku": f"SKU-{random.randrange(100, 999)}", "quantity": random.randrange(1, 5), "price": price}
            for price in random.choices(("4.90", "19.00", "129.00", "1290.00"), k=random.randrange(1, 4))
        ]

    def body(self, event: str) -> dict[str, Any]:
        total = sum(float(item["price"]) * item["quantity"] for item in self.lines)
        return {
            "type": event.replace("-", "."),
            "customer": {"id": self.customer, "plan": self.plan, "region": self.region},
            "order": {"id": self.order, "lines": self.lines, "total": f"{total:.2f}", "currency": "EUR"},
        }

    def draft(self, endpoint: Endpoint) -> Draft:
        return Draft(
            service=endpoint.service,
            endpoint=endpoint,
            method=endpoint.method,
            path=endpoint.path,
            body=b"" if endpoint.method == "GET" else json_bytes(self.body(endpoint.name)),
            content_type="" if endpoint.method == "GET" else endpoint.content_type,
            ordering_key=self.customer,
            expires_at=timezone.now() + STALE_AFTER,
            tags={"region": self.region, "plan": self.plan, "order": self.order},
        )


class Traffic:
    """Random messages to the present endpoints of the sandbox services."""

    def __init__(self, random: Random | None = None) -> None:
        self.sent = 0
        self._random = random or SystemRandom()

    @property
    def pause(self) -> float:
        """Seconds until the next message."""
        return PAUSE if self.sent < LIVELY else QUIET_PAUSE

    def send_one(self) -> Message | None:
        """Queue one message. Return None if the service's backlog is full or it has no endpoints."""
        (sandbox,) = self._random.choices(SANDBOX, [sandbox.weight for sandbox in SANDBOX])
        present = list(Endpoint.objects.filter(service__name=sandbox.name).select_related("service"))
        if not present or Message.objects.unfinished().for_service(present[0].service).count() >= WAITING_LIMIT:
            return None
        (message,) = Message.objects.accept([SampleOrder(self._random).draft(self._random.choice(present))])
        self.sent += 1
        return message


# ---- the process ----------------------------------------------------------------------------------------------------
async def run(port: int, *, with_traffic: bool) -> None:
    """Serve the upstreams, and send messages if asked to, until the process is stopped."""
    upstreams, traffic = Upstreams(), Traffic()
    await upstreams.start(port)
    log.info(line("sandbox", port=upstreams.port, pid=os.getpid()))
    if not with_traffic:
        await asyncio.Event().wait()
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="database") as database:  # one thread, so one connection
        while True:
            await asyncio.sleep(traffic.pause)
            await loop.run_in_executor(database, _send_quietly, traffic)


def _send_quietly(traffic: Traffic) -> None:
    try:
        traffic.send_one()
    except (DatabaseError, InterfaceError) as error:
        connection.close()
        log.warning(line("sandbox", error=str(error).partition("\n")[0]))
