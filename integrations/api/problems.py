"""Errors of the API: the one place that makes `application/problem+json` (RFC 9457)."""

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
from integrations.schemas.fields import rule_text

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
BUSY_RETRY = 2  # seconds: a write lock of SQLite or a failover is usually over by then

# status: (the end of `type`, `title`)
KINDS = {
    400: ("malformed", "The request cannot be read"),
    401: ("unauthenticated", "A valid token is needed"),
    403: ("forbidden", "Your role does not allow this"),
    404: ("not-found", "There is no such thing"),
    405: ("method-not-allowed", "This method is not offered here"),
    409: ("conflict", "This does not fit the present state"),
    413: ("too-large", "This is too large"),
    415: ("unsupported-type", "This type of body is not taken"),
    422: ("validation", "A rule is broken"),
    429: ("too-many-requests", "Too many requests"),
    500: ("internal", "Something is validation_problem here"),
    503: ("unavailable", "Not available for the moment"),
}

Location = Sequence[str | int]
Errors = Sequence[tuple[Location, str]]


class Problem(Exception):
    """An answer other than 2xx. ``errors`` are [(location, words)] for a 422; ``headers`` go along."""

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
            document["errors"] = [{"loc": list(location), "msg": words} for location, words in self.errors]
        return document

    def as_response(self) -> HttpResponse:
        return HttpResponse(to_json(self.as_json()), status=self.status, content_type=MEDIA_TYPE, headers=self.headers)


def validation_problem(errors: Errors) -> Problem:
    """A 422 whose detail says the first validation_problem rule, so that a log line of the client is enough."""
    location, words = errors[0] if errors else ((), "a rule is broken")
    where = ".".join(str(part) for part in location if part != "body")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, (f"{where}: {words}" if where else words) + more, errors=errors)


def problem_of(error: Exception, prefix: Location = ("body",)) -> Problem | None:
    """What a refusal of the domain is over HTTP; None for what is not one. ``prefix`` says where its fields were."""
    match error:
        case Problem():
            return error
        case Invalid():
            return validation_problem([((*prefix, *location), words) for location, words in error.errors])
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
                [(prefix, "it holds a value that cannot be stored: out of range, or a NUL character")]
            )
    return None


def add_problem_handlers(api: NinjaAPI) -> None:
    """Makes every error of an API a problem document."""

    def answers(kind: type[Exception], problem: Callable[[Any], Problem | None]) -> None:
        def handler(request: HttpRequest, error: Any) -> HttpResponse:
            return (problem(error) or _internal(request, error)).as_response()

        api.add_exception_handler(kind, handler)

    for kind in (Problem, Invalid, pydantic.ValidationError, TooLarge, Conflict, OverflowError):
        answers(kind, problem_of)
    answers(DataError, problem_of)
    answers(NinjaValidationError, _of_parameters)
    answers(HttpError, _of_body)
    answers(AuthenticationError, lambda _: Problem(401, "Send Authorization: Bearer TOKEN.", headers=CHALLENGE))
    answers(Http404, lambda error: Problem(404, str(error) or "There is nothing at this address."))
    answers(RequestDataTooBig, lambda _: Problem(413, "The body is too large."))
    answers(UnreadablePostError, lambda _: Problem(400, "The body ended early."))
    answers(IntegrityError, lambda _: Problem(409, "It was changed by somebody else at the same time; look again."))
    answers(OperationalError, _of_database)
    answers(InterfaceError, _of_database)  # psycopg's word for a connection that was cut
    answers(Exception, lambda _: None)


CHALLENGE = {"WWW-Authenticate": 'Bearer realm="switchboard"'}


def _of_parameters(error: NinjaValidationError) -> Problem:
    """Body errors lose the name of the view's parameter, which ninja puts after "body"."""
    return validation_problem([(_location(rule["loc"]), rule_text(cast(ErrorDetails, rule))) for rule in error.errors])


def _location(location: tuple[str | int, ...]) -> Location:
    return ("body", *location[2:]) if location[0] == "body" else location


def _of_body(error: HttpError) -> Problem:
    # ninja wraps whatever the parser raised; the parser's own words are the better ones.
    if isinstance(error.__cause__, Problem):
        return error.__cause__
    status = error.status_code if error.status_code in KINDS else 400
    return Problem(status, error.message)


def _of_database(error: OperationalError | InterfaceError) -> Problem:
    logger.warning("the database did not answer: %s", error)
    return Problem(503, "The database is busy or away; try again.", headers={"Retry-After": str(BUSY_RETRY)})


def _internal(request: HttpRequest, error: Exception) -> Problem:
    logger.error("api call failed: %s %s", request.method, request.path, exc_info=error)
    return Problem(500, "This is a fault of the server; its log says more.")
