"""The ASGI application: Django as WSGI on a pool of lasting threads, and in front of it the native ASGI routes.

Django's own ASGI handler runs each sync view in a temporary thread with a temporary database connection: the same
view was measured at 170 requests a second that way and at 1,200 with lasting threads. So pages and the API are WSGI.
A native route runs on the event loop: it waits without a thread, and many requests can share a transaction.

Requests that Django's middleware would reject or redirect go to Django. Responses of native routes carry the
middleware's headers.
"""

from __future__ import annotations

import os
from io import BytesIO
from typing import cast

from a2wsgi import WSGIMiddleware
from a2wsgi.wsgi_typing import WSGIApp
from asgiref.typing import ASGIReceiveCallable as Receive
from asgiref.typing import ASGISendCallable as Send
from asgiref.typing import ASGISendEvent, Scope

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")

from dashboard.wsgi import application as wsgi  # isort: split

from django.core.exceptions import SuspiciousOperation
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.middleware.security import SecurityMiddleware

from dashboard.views.monitoring import healthz
from integrations.api.asgi import direct_call, events, ingest, routes
from integrations.api.json_io import api_path

THREADS = 16

console = WSGIMiddleware(cast(WSGIApp, wsgi), workers=THREADS)
"""The console and the API as a WSGI application: one thread per request, with its own lasting database connection."""


async def alive(request: ASGIRequest, receive: Receive, send: Send) -> None:
    """`GET /healthz`, which responds even when every thread is busy."""
    await routes.send_response(request, healthz(request), send)


ROUTES: dict[tuple[str, str], routes.Route] = {
    ("GET", "/healthz"): alive,
    ("POST", api_path("messages")): ingest.route,
    ("GET", api_path("events")): events.route,
    ("POST", api_path("process")): direct_call.route,
}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    found = _route_for(scope)
    if found is None:
        await console(scope, receive, send)  # type: ignore[arg-type]
    else:
        route, request = found
        await route(request, receive, _with_middleware_headers(request, send))


def _route_for(scope: Scope) -> tuple[routes.Route, ASGIRequest] | None:
    if scope["type"] != "http" or not scope["query_string"].isascii():
        return None
    route = ROUTES.get((scope["method"], scope["path"]))
    if route is None or not _passes_middleware(request := ASGIRequest(scope, BytesIO())):
        return None
    return route, request


# ---- Django's middleware --------------------------------------------------------------------------------------------
def _passes_middleware(request: ASGIRequest) -> bool:
    try:
        request.get_host()
    except SuspiciousOperation:
        return False
    return _security.process_request(request) is None  # else a redirect to HTTPS


def _with_middleware_headers(request: ASGIRequest, send: Send) -> Send:
    is_secure = request.is_secure()
    if is_secure not in _headers:
        _headers[is_secure] = _middleware_headers(request)

    async def send_with_headers(event: ASGISendEvent) -> None:
        if event["type"] == "http.response.start":
            event["headers"] = [*event["headers"], *_headers[is_secure]]
        await send(event)

    return send_with_headers


def _middleware_headers(request: ASGIRequest) -> list[tuple[bytes, bytes]]:
    """The headers that middleware adds to a response, read from the one view that reads nothing."""
    probe = ASGIRequest({**request.scope, "method": "GET", "path": "/healthz", "query_string": b""}, BytesIO())
    own = {*healthz(probe).headers, "Content-Length"}
    return [
        (name.lower().encode(), value.encode()) for name, value in wsgi.get_response(probe).items() if name not in own
    ]


_security = SecurityMiddleware(lambda request: HttpResponse())
_headers: dict[bool, list[tuple[bytes, bytes]]] = {}  # by whether the request is secure
