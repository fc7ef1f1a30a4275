"""Regular checks of services: one small GET, with the client, checks and request building that delivery uses.

A check neither feeds nor obeys the breaker, the limits or the retry budget, and is counted apart from the traffic.
One worker takes each due check. If that worker stops before the response, the next check is made at its own time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import cast

from django.db import transaction

from integrations.delivery import unqueued_call
from integrations.delivery.request import build_call
from integrations.delivery.send import make_call
from integrations.delivery.target import Target, readable_target
from integrations.models import Attempt, Draft, Event, Health, Result, Service, Trigger, database_now, tally
from integrations.outbound.client import Call, Client
from integrations.outbound.outcome import Fault, Outcome
from integrations.policies.health import HealthState, is_expected, next_state

CAPACITY = 20  # checks in flight in one pump
HISTORY = 100  # checks stored for each service


@dataclass(frozen=True, slots=True)
class Check:
    """One check that this worker makes, and its row among the attempts."""

    service: Service
    target: Target
    request: Draft
    attempt: Attempt


def claim(free: int = CAPACITY) -> list[Check]:
    """Claim up to ``free`` due checks for this worker. Commits before it returns."""
    now = database_now()
    due = list(Health.objects.due(now).select_related("service").order_by("next_at")[:free]) if free > 0 else []
    return [check for health in due if (check := _claim(health, now)) is not None]


def _claim(health: Health, now: datetime) -> Check | None:
    service = health.service
    following = now + timedelta(seconds=service.health_check.get("interval") or 60)
    request = Draft(service, "GET", str(service.health_check.get("path") or "/"), b"", "")
    with transaction.atomic():
        if not Health.objects.filter(pk=health.pk, next_at=health.next_at).update(next_at=following):
            return None  # another worker has claimed it
        if (target := readable_target(service.pk)) is None:
            return None
        attempt = unqueued_call.begin(target, request, trigger=Trigger.HEALTH, started_at=now)
    return Check(service, target, request, attempt)


async def send(client: Client, check: Check, now: datetime) -> tuple[Call | None, Outcome]:
    """Make the call, within the interval of the checks. Every failure is a value in the outcome."""
    interval = float(check.service.health_check["interval"])

    def bounded(call: Call) -> Call:
        total = min(call.total_timeout, interval)
        return replace(call, total_timeout=total, connect_timeout=min(call.connect_timeout, total))

    identifier = check.attempt.public_id
    build = partial(build_call, check.service, check.request, identifier=identifier, now=now, target=check.target)
    return await make_call(client, check.service, build, bounded=bounded)


def record(check: Check, call: Call | None, outcome: Outcome) -> None:
    """Write the result of a check, and an event if the service went down or came back."""
    service = check.service
    is_good = is_expected(outcome.status_code, service.health_check.get("expect") or "2xx")
    columns = unqueued_call.end_columns(check.target, call, outcome)
    columns["outcome"] = Result.SUCCEEDED if is_good else Result.FAILED
    if is_good:
        columns |= {"fault": "", "detail": ""}  # an expected status may be an error status
    elif not columns["fault"]:
        columns |= {"fault": Fault.STATUS, "detail": f"answered {outcome.status_code}, which is not an expected status"}
    now = database_now()
    with transaction.atomic():
        health = Health.objects.select_for_update().filter(pk=service.pk).first()
        unqueued_call.end(check.attempt, columns)
        if health is None:  # it is no longer checked
            return
        before = cast(HealthState, health.state)
        health.state, health.failed_in_a_row, change = next_state(before, health.failed_in_a_row, is_good=is_good)
        if health.state != before:
            health.changed_at = now
        health.checked_at, health.attempt_id = now, check.attempt.pk
        health.detail = "" if is_good else columns["detail"]
        health.save(update_fields=["state", "failed_in_a_row", "changed_at", "checked_at", "attempt_id", "detail"])
        if change:
            cause = {} if is_good else {"cause": health.detail, "attempts": [check.attempt.public_id]}
            Event.objects.create(type=f"service.{change}", at=now, service=service, facts=cause)
        tally.add({service.pk: tally.Counts(checks=1, failed_checks=int(not is_good))}, now)
        _prune(service)


def _prune(service: Service) -> None:
    # By the index of checks: any other would lead through the process calls made since.
    checks = Attempt.objects.filter(service=service, trigger=Trigger.HEALTH).order_by("-pk")
    Attempt.objects.filter(pk__in=list(checks.values_list("pk", flat=True)[HISTORY : 2 * HISTORY])).delete()
