"""/api/v1: the same verbs as the console's, for programs."""

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

from integrations.api import administration, events, failures, messages, operations, process, services
from integrations.api.auth import Bearer
from integrations.api.json_io import StrictParser, keep_out_of_caches
from integrations.api.openapi import complete
from integrations.api.problems import Problem, add_problem_handlers

DESCRIPTION = """\
Every call but this page needs `Authorization: Bearer TOKEN`; errors are `application/problem+json` (RFC 9457).
Lists give `next_cursor`; times are RFC 3339 in UTC, durations are seconds. A request that is repeated with the same
`Idempotency-Key` is done once."""


class Api(NinjaAPI):
    """ninja's API, whose own 404 and 405 are problem documents too."""

    def _get_urls(self) -> list[URLResolver | URLPattern]:
        routes = super()._get_urls()
        for route in routes:
            if isinstance(route, URLPattern):
                route.callback = in_words(route.callback)
        return [*routes, re_path("", csrf_exempt(nothing_here))]

    def get_openapi_schema(self, **kwargs: Any) -> OpenAPISchema:
        schema = super().get_openapi_schema(**kwargs)
        complete(schema, dict(self._gates()))
        return schema

    def _gates(self) -> Iterator[tuple[str, Bearer]]:
        """Who may make each call, by the call's name."""
        for router in self._get_bound_routers():
            for view in router.path_operations.values():
                for operation in view.operations:
                    (gate,) = operation.auth_callbacks
                    yield self.get_openapi_operation_id(operation), cast(Bearer, gate)

    def get_openapi_operation_id(self, operation: Any) -> str:
        name: str = operation.view_func.__name__
        return name


def in_words(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    @wraps(view)
    def spoken(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            response = view(request, *args, **kwargs)
        except Http404:
            return nothing_here(request)
        keep_out_of_caches(response)
        if response.status_code == 405:
            allowed = response.headers.get("Allow", "")
            words = f"{request.method} is not offered here; use {allowed}."
            return Problem(405, words, headers={"Allow": allowed}).as_response()
        return response

    return spoken


def nothing_here(request: HttpRequest) -> HttpResponse:
    return Problem(404, f"There is nothing at {request.path[:200]}.").as_response()


api = Api(
    title="Switchboard",
    version="1",
    description=DESCRIPTION,
    urls_namespace="api",
    parser=StrictParser(),
    openapi_extra={"externalDocs": {"url": "https://www.rfc-editor.org/rfc/rfc9457", "description": "Errors"}},
)
add_problem_handlers(api)
api.add_router("", services.router)
api.add_router("", messages.router)
api.add_router("", events.router)
api.add_router("", operations.router)
api.add_router("", process.router)
api.add_router("", failures.router)
api.add_router("", administration.router)
