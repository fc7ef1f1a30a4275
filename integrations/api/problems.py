"""Errors of the API as `application/problem+json` (RFC 9457). No other module writes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import pydantic
from django.core.exceptions import RequestDataTooBig
from django.db import DataError, IntegrityError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError
from ninja.errors import ValidationError as NinjaValidationError
from pydantic_core import ErrorDetails, to_json

from integrations.errors import Conflict, Invalid, TooLarge
from integrations.models import storage
from integrations.schemas.fields import rule_text

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
BUSY_RETRY = 2  # seconds; a write lock of SQLite or a failover is usually over by then

# status: (the end of `type`, `title`)
KINDS = {
    400: ("malformed", "The request is malformed"),
    401: ("unauthenticated", "A valid token is required"),
    403: ("forbidden", "Your role does not allow this"),
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    408: ("too-slow", "The request took too long to arrive"),
    409: ("conflict", "The current state does not allow this"),
    413: ("too-large", "The request is too large"),
    415: ("unsupported-type", "Unsupported content type"),
    422: ("validation", "The request is invalid"),
    429: ("too-many-requests", "Too many requests"),
    500: ("internal", "Internal error"),
    503: ("unavailable", "Temporarily unavailable"),
}

Location = Sequence[str | int]
Errors = Sequence[tuple[Location, str]]


class Problem(Exception):
    """An error response. ``errors``: pairs of location and text, for a 422. ``headers``: additional headers."""

    def __init__(self, status: int, detail: str, *, errors: Errors = (), headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    def as_json(self) -> dict[str, Any]:
        kind, title = KINDS[self.status]
        document: dict[str, Any] = {
            "type": f"/problems/{kind}",
            "title": title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.status == 422:
            document["errors"] = [{"loc": list(location), "msg": text} for location, text in self.errors]
        return document

    def as_response(self) -> HttpResponse:
        return HttpResponse(to_json(self.as_json()), status=self.status, content_type=MEDIA_TYPE, headers=self.headers)


def validation_problem(errors: Errors) -> Problem:
    """Return a 422 whose detail is the first error, so that it shows in clients that log only the detail."""
    location, text = errors[0] if errors else ((), "the request is invalid")
    where = ".".join(str(part) for part in location if part != "body")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, (f"{where}: {text}" if where else text) + more, errors=errors)


def problem_of(error: Exception, prefix: Location = ("body",)) -> Problem | None:
    """Convert a domain error to a problem; None for other errors. ``prefix``: location of the fields it names."""
    match error:
        case Problem():
            return error
        case Invalid():
            return validation_problem([((*prefix, *location), text) for location, text in error.errors])
        case pydantic.ValidationError():
            return validation_problem(
                [((*prefix, *rule["loc"]), rule_text(rule)) for rule in error.errors(include_input=False)]
            )
        case TooLarge():
            return Problem(413, str(error))
        case Conflict():
            return Problem(409, str(error))
        case OverflowError() | DataError():
            return validation_problem(
                [(prefix, "contains a value that cannot be stored: out of range, or a NUL character")]
            )
    return None


def add_problem_handlers(api: NinjaAPI) -> None:
    """Answer every error of an API with a problem document."""

    def handle(kind: type[Exception], problem: Callable[[Any], Problem | None]) -> None:
        def handler(request: HttpRequest, error: Any) -> HttpResponse:
            return (problem(error) or _internal(request, error)).as_response()

        api.add_exception_handler(kind, handler)

    for kind in (Problem, Invalid, pydantic.ValidationError, TooLarge, Conflict, OverflowError):
        handle(kind, problem_of)
    handle(DataError, problem_of)
    handle(NinjaValidationError, _parameters_problem)
    handle(HttpError, _body_problem)
    handle(AuthenticationError, lambda _: Problem(401, "Send Authorization: Bearer TOKEN.", headers=CHALLENGE))
    handle(Http404, lambda error: Problem(404, str(error) or "Nothing exists at this address."))
    handle(RequestDataTooBig, lambda _: Problem(413, "The body is too large."))
    handle(UnreadablePostError, lambda _: Problem(400, "The connection was closed before the end of the body."))
    handle(IntegrityError, lambda _: Problem(409, "Another request changed it at the same time. Reload and try again."))
    api.add_exception_handler(OperationalError, _database_problem)
    api.add_exception_handler(InterfaceError, _database_problem)  # psycopg raises it for a lost connection
    handle(Exception, lambda _: None)


CHALLENGE = {"WWW-Authenticate": 'Bearer realm="switchboard"'}


def _parameters_problem(error: NinjaValidationError) -> Problem:
    """Remove from locations the name of the view's parameter, which ninja puts after "body"."""
    return validation_problem([(_location(rule["loc"]), rule_text(cast(ErrorDetails, rule))) for rule in error.errors])


def _location(location: tuple[str | int, ...]) -> Location:
    return ("body", *location[2:]) if location[0] == "body" else location


def _body_problem(error: HttpError) -> Problem:
    # ninja wraps the parser's error; the parser's own text is better.
    if isinstance(error.__cause__, Problem):
        return error.__cause__
    status = error.status_code if error.status_code in KINDS else 400
    return Problem(status, error.message)


def _database_problem(request: HttpRequest, error: Exception | type[Exception]) -> HttpResponse:
    logger.warning("database unavailable: %s", error)
    storage.suspect()
    detail = "The database is busy or unreachable; try again."
    if request.method not in ("GET", "HEAD"):  # the commit may have succeeded and its reply been lost
        detail = "The database is busy or unreachable. The request may have been accepted: send it again with the same "
        detail += "Idempotency-Key."
    return Problem(503, detail, headers={"Retry-After": str(BUSY_RETRY)}).as_response()


def _internal(request: HttpRequest, error: Exception) -> Problem:
    logger.error("API request failed: %s %s", request.method, request.path, exc_info=error)
    return Problem(500, "The server failed to handle the request. Its log has the details.")
