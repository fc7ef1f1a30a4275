"""/api/v1: the console's actions for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, cast

from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, URLResolver, re_path
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema
from ninja.operation import Operation

from integrations.api import administration, events, failures, messages, operations, process, services
from integrations.api.auth import Bearer
from integrations.api.json_io import StrictParser, keep_out_of_caches
from integrations.api.openapi import complete
from integrations.api.parameters import refusing_unknown
from integrations.api.problems import Problem, add_problem_handlers

DESCRIPTION = """\
Every request except for this document needs `Authorization: Bearer TOKEN`. Errors are `application/problem+json`
(RFC 9457). Lists return `next_cursor`. Times are RFC 3339 in UTC, durations are seconds. Requests repeated with the
same `Idempotency-Key` are carried out once."""


class Api(NinjaAPI):
    """ninja's API with problem documents for its own 404 and 405 responses too."""

    def _get_urls(self) -> list[URLResolver | URLPattern]:
        routes = super()._get_urls()
        for route in routes:
            if isinstance(route, URLPattern):
                route.callback = with_problems(route.callback)
        return [*routes, re_path("", csrf_exempt(not_found))]

    _description: OpenAPISchema | None = None

    def get_openapi_schema(self, **kwargs: Any) -> OpenAPISchema:
        """The document, made once: it takes half a second of CPU, and clients without an account may ask for it."""
        if self._description is None:
            schema = super().get_openapi_schema(**kwargs)
            complete(schema, dict(self._authentication()))
            self._description = schema
        return self._description

    def refuse_unknown_parameters(self) -> None:
        """Check the query parameters of every call; to be called once, when all routers are added."""
        for operation in self._operations():
            operation.view_func = refusing_unknown(operation)

    def _authentication(self) -> Iterator[tuple[str, Bearer]]:
        """Yield the authentication of each operation, by operation id."""
        for operation in self._operations():
            (bearer,) = operation.auth_callbacks
            yield self.get_openapi_operation_id(operation), cast(Bearer, bearer)

    def _operations(self) -> Iterator[Operation]:
        for router in self._get_bound_routers():
            for view in router.path_operations.values():
                yield from view.operations

    def get_openapi_operation_id(self, operation: Any) -> str:
        name: str = operation.view_func.__name__
        return name


def with_problems(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            response = view(request, *args, **kwargs)
        except Http404:
            return not_found(request)
        keep_out_of_caches(response)
        if response.status_code == 405:
            allowed = response.headers.get("Allow", "")
            detail = f"{request.method} is not allowed here; use {allowed}."
            return Problem(405, detail, headers={"Allow": allowed}).as_response()
        return response

    return wrapped


def not_found(request: HttpRequest) -> HttpResponse:
    return Problem(404, f"Nothing exists at {request.path[:200]}.").as_response()


api = Api(
    title="Switchboard",
    version="1",
    description=DESCRIPTION,
    urls_namespace="api",
    parser=StrictParser(),
    servers=[{"url": "/", "description": "The installation that serves this document."}],
    openapi_extra={
        "info": {"license": {"name": "MIT", "identifier": "MIT"}},
        "externalDocs": {"url": "https://www.rfc-editor.org/rfc/rfc9457", "description": "Errors"},
    },
)
add_problem_handlers(api)
api.add_router("", services.router)
api.add_router("", messages.router)
api.add_router("", events.router)
api.add_router("", operations.router)
api.add_router("", process.router)
api.add_router("", failures.router)
api.add_router("", administration.router)
api.refuse_unknown_parameters()
