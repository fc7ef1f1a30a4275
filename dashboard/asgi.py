"""The ASGI application: Django as WSGI on a pool of lasting threads, and in front of it the native ASGI routes.

Django's own ASGI handler runs each sync view in a temporary thread with a temporary database connection: the same
view was measured at 170 requests a second that way and at 1,200 with lasting threads. So pages and the API are WSGI.
A native route runs on the event loop: it waits without a thread, and many requests can share a transaction. An export
is Django's, and its parts are sent from the loop (`dashboard/streaming.py`).

Requests that Django's middleware would reject or redirect go to Django. Responses of native routes carry the
middleware's headers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import BytesIO
from typing import Any, cast

from a2wsgi import WSGIMiddleware
from a2wsgi.wsgi_typing import Environ, StartResponse, WSGIApp
from asgiref.typing import ASGIReceiveCallable as Receive
from asgiref.typing import ASGISendCallable as Send
from asgiref.typing import ASGISendEvent, HTTPScope, Scope

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")

from dashboard.wsgi import application as wsgi  # isort: split

from django.core.exceptions import SuspiciousOperation
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.middleware.security import SecurityMiddleware
from django.urls import reverse

from dashboard import request_bodies, streaming
from dashboard.middleware import MONITORING
from dashboard.views import errors
from dashboard.views.messages.export import FORMATS
from dashboard.views.monitoring import healthz
from integrations.api.asgi import direct_call, events, ingest, routes
from integrations.api.asgi.request_body import ClientDisconnected
from integrations.api.json_io import api_path
from integrations.api.problems import Problem

THREADS = 16


def with_whole_body(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Give Django the body that `respond_in_thread` read, in place of a stream that a thread would wait for."""
    body = cast(dict[str, Any], environ)["asgi.scope"].get("body")
    if body is not None:
        environ["wsgi.input"] = BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
    return cast(WSGIApp, wsgi)(environ, start_response)


console = WSGIMiddleware(with_whole_body, workers=THREADS)
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
EXPORTS = {("GET", reverse("message-export", args=[name])) for name in FORMATS}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http" and (scope["method"], scope["path"]) in EXPORTS and scope["query_string"].isascii():
        await streaming.respond(scope, receive, send)
        return
    found = _route_for(scope)
    if found is None:
        await respond_in_thread(scope, receive, send)
    else:
        route, request = found
        await route(request, receive, _with_middleware_headers(request, send))


async def respond_in_thread(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the whole body, then let a thread of Django respond."""
    if scope["type"] != "http" or not request_bodies.has_body(scope):
        await console(scope, receive, send)  # type: ignore[arg-type]
        return
    try:
        with request_bodies.capacity.reserve() as reservation:
            body = await request_bodies.read(scope, receive, reservation)
            await console({**scope, "body": body}, receive, send)  # type: ignore[arg-type]
    except ClientDisconnected:
        pass
    except Problem as problem:
        await _refuse(problem, scope, send)


async def _refuse(problem: Problem, scope: HTTPScope, send: Send) -> None:
    request = ASGIRequest({**scope, "query_string": b""}, BytesIO())
    response = problem.as_response() if scope["path"].startswith(api_path()) else errors.unread(problem)
    if _passes_middleware(request):
        send = _with_middleware_headers(request, send)
    await routes.send_response(request, response, send)


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
        if request.path not in MONITORING:
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
