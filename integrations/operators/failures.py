"""Triage of failure groups: resolve, ignore, reopen, note and assign."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction

from integrations.errors import Conflict, Invalid
from integrations.models import Account, AuditEntry, Event, Failure, FailureState, database_now
from integrations.models.failure import RECENT, FailureQuerySet
from integrations.schemas.actions import FailureIn
from integrations.schemas.fields import utc_text


def change(failure: Failure, data: FailureIn, *, actor: str) -> Failure:
    """Change the state, the note or the assignee; omitted fields keep their values.

    Raises Invalid, or Conflict if the group was deleted.
    """
    given = data.model_fields_set
    now = database_now()
    if data.ignored_until and data.ignored_until <= now:
        raise Invalid((("ignored_until",), "must be in the future"))
    if data.assignee and not Account.objects.filter(username=data.assignee, is_active=True).exists():
        raise Invalid((("assignee",), f"no active account is named {data.assignee}"))
    with transaction.atomic():
        locked = Failure.objects.select_for_update().filter(pk=failure.pk).first()
        if locked is None:
            raise Conflict("the group was deleted with its service")
        before = _facts(locked)
        if "note" in given:
            locked.note = data.note
        if "assignee" in given:
            locked.assignee = data.assignee or ""
        _set_state(locked, data, now)
        if (after := _facts(locked)) == before:
            return locked
        locked.save(update_fields=["state", "opened_at", "resolved_at", "ignored_until", "note", "assignee"])
        _record_event(locked, before["state"], actor, now)
        changes = {name: value for name, value in after.items() if value != before[name]}
        AuditEntry.objects.record(
            actor,
            f"failure.{locked.state}" if "state" in changes else "failure.changed",
            locked.public_id,
            before={name: before[name] for name in changes},
            after=changes,
        )
    return locked


def end_ignoring(now: datetime) -> None:
    """Open the groups whose time of ignoring has ended. Any worker may run this."""
    ended = Failure.objects.filter(state=FailureState.IGNORED, ignored_until__lte=now)
    for failure_id in ended.values_list("pk", flat=True):
        with transaction.atomic():
            failure = ended.select_for_update().filter(pk=failure_id).first()
            if failure is None:
                continue  # an operator or another worker was faster
            before = _facts(failure)
            failure.state, failure.opened_at, failure.ignored_until = FailureState.OPEN, now, None
            failure.save(update_fields=["state", "opened_at", "ignored_until"])
            _record_event(failure, before["state"], "switchboard", now)
            changes = {name: value for name, value in _facts(failure).items() if value != before[name]}
            AuditEntry.objects.record(
                "switchboard",
                "failure.open",
                failure.public_id,
                before={name: before[name] for name in changes},
                after=changes,
                reason="the time of ignoring has ended",
            )


def _set_state(failure: Failure, data: FailureIn, now: datetime) -> None:
    wanted = FailureState(data.state) if data.state else FailureState(failure.state)
    if data.ignored_until and wanted != FailureState.IGNORED:
        raise Invalid((("ignored_until",), "only allowed with the state ignored"))
    if wanted == FailureState.IGNORED and data.model_fields_set & {"state", "ignored_until"}:
        failure.ignored_until = data.ignored_until
    if wanted == failure.state or (wanted == FailureState.OPEN and failure.is_unresolved):
        return  # a regressed group counts as open
    if wanted == FailureState.RESOLVED:
        failure.resolved_at = now
    if wanted == FailureState.OPEN:
        failure.opened_at = now
    if wanted != FailureState.IGNORED:
        failure.ignored_until = None
    failure.state = wanted


def _record_event(failure: Failure, before: str, actor: str, now: datetime) -> None:
    type_ = {FailureState.RESOLVED: "failure.resolved", FailureState.OPEN: "failure.opened"}.get(
        FailureState(failure.state)
    )
    if type_ and failure.state != before:
        facts = {"title": failure.title, "by": actor}
        Event.objects.create(type=type_, at=now, service_id=failure.service_id, subject=failure.public_id, facts=facts)


def _facts(failure: Failure) -> dict[str, Any]:
    until = failure.ignored_until
    return {
        "state": str(failure.state),
        "ignored_until": utc_text(until) if until else None,
        "note": failure.note,
        "assignee": failure.assignee,
    }


def needing_attention(now: datetime) -> FailureQuerySet:
    """Return open and regressed groups with failures in the last day, the most harmful first."""
    return (
        Failure.objects.unresolved()
        .filter(last_seen__gte=now - RECENT)
        .select_related("service", "endpoint")
        .defer("service__secrets")
        .most_harmful_first(now)
    )
