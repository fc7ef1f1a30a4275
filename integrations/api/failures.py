"""Failure groups: list, read, triage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from django.http import Http404, HttpRequest, HttpResponse
from ninja import Query, Router

from integrations.api.auth import caller, operator, viewer
from integrations.api.json_io import json_response
from integrations.api.pagination import LIMIT, Cursor, Limit, list_json, page
from integrations.api.responses import FailureOut, FailurePage
from integrations.models import Failure, FailureState, Message
from integrations.models.failure import FailureQuerySet
from integrations.models.identifiers import public_id
from integrations.operators import failures
from integrations.schemas.actions import FailureIn

router = Router(tags=["Failures"])


@router.get("/failures", auth=viewer, response=FailurePage)
def list_failures(
    request: HttpRequest,
    service: Annotated[str | None, Query(description="Name of the service.")] = None,
    state: Annotated[FailureState | None, Query(description="State of the group.")] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> HttpResponse:
    """List groups of equal failures, the newest first."""
    equal = {"service__name": service, "state": state}
    rows = Failure.objects.filter(**{name: value for name, value in equal.items() if value is not None})
    found, next_cursor = page(_with_names(rows), "failures", limit, cursor)
    return json_response(list_json(_documents(found), next_cursor))


@router.get("/failures/{failure_id}", auth=viewer, response=FailureOut)
def get_failure(request: HttpRequest, failure_id: str) -> HttpResponse:
    """Return one failure group. Find its messages with the search `failure:ID`."""
    return json_response(_documents([_find(failure_id)])[0])


@router.patch("/failures/{failure_id}", auth=operator, response=FailureOut)
def change_failure(request: HttpRequest, failure_id: str, data: FailureIn) -> HttpResponse:
    """Change the state, the note or the assignee of a group. Omitted fields keep their values."""
    failures.change(_find(failure_id), data, actor=caller(request).actor)
    return json_response(_documents([_find(failure_id)])[0])


def _find(text: str) -> Failure:
    failure = _with_names(Failure.objects.all()).by_public_id(text)
    if failure is None:
        raise Http404(f"No failure group has the id {text[:50]}.")
    return failure


def _with_names(rows: FailureQuerySet) -> FailureQuerySet:
    # Without the service's other columns: its settings are large, and reading its secrets would decrypt them.
    return rows.select_related("service", "endpoint").only(
        *(field.name for field in Failure._meta.concrete_fields), "service__name", "endpoint__name"
    )


def _documents(found: Sequence[Failure]) -> list[dict[str, Any]]:
    wanted = {failure.sample_id for failure in found if failure.sample_id}
    samples = dict(Message.objects.filter(pk__in=wanted).values_list("pk", "nonce")) if wanted else {}
    names = ("fault", "status_code", "title", "version", "because", "state", "ignored_until", "count", "messages")
    return [
        {
            "id": failure.public_id,
            "service": failure.service.name,
            "endpoint": failure.endpoint.name if failure.endpoint else None,
            "fingerprint": failure.key,
            **{name: getattr(failure, name) for name in (*names, "first_seen", "last_seen", "note")},
            "assignee": failure.assignee or None,
            # None if the message was deleted since.
            "sample": public_id("msg", failure.sample_id, samples[failure.sample_id])
            if failure.sample_id in samples
            else None,
        }
        for failure in found
    ]
