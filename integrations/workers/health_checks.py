"""Regular checks of services: one small GET, through the same client, gate and request building as delivery.

A check neither feeds nor obeys the breaker, the limits or the retry budget, and is counted beside the traffic. Each
that is due is taken by one worker; if that one ends before the answer, the next check comes at its time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import cast

from django.db import transaction

from integrations.delivery import oauth
from integrations.delivery.attempt import call_facts
from integrations.delivery.request import build_call
from integrations.models import Attempt, Event, Health, Result, Service, Trigger, database_now, tally
from integrations.outbound.client import Call, Client
from integrations.outbound.outcome import Fault, Outcome
from integrations.policies.health import HealthState, is_expected, next_state

AT_ONCE = 20  # checks under way in one pump
KEPT = 100  # checks of each service
UNFINISHED = "The check did not come to its end: the worker that made it stopped."


@dataclass(frozen=True, slots=True)
class Check:
    """One check that this worker makes, and its row among the attempts."""

    service: Service
    attempt: Attempt

    @property
    def path(self) -> str:
        return str(self.service.health_check.get("path") or "/")


def claim(room: int = AT_ONCE) -> list[Check]:
    """The checks that are due, now this worker's; committed when it returns."""
    now = database_now()
    due = list(Health.objects.due(now).select_related("service").order_by("next_at")[:room]) if room > 0 else []
    return [check for health in due if (check := _claim(health, now)) is not None]


def _claim(health: Health, now: datetime) -> Check | None:
    service = health.service
    following = now + timedelta(seconds=service.health_check.get("interval") or 60)
    with transaction.atomic():
        if not Health.objects.filter(pk=health.pk, next_at=health.next_at).update(next_at=following):
            return None  # somebody else has it
        attempt = Attempt.objects.create(
            service=service,
            trigger=Trigger.HEALTH,
            started_at=now,
            outcome=Result.LOST,
            fault=Fault.WORKER_LOST,
            detail=UNFINISHED,
            method="GET",
        )
    return Check(service, attempt)


async def send(client: Client, check: Check, now: datetime) -> tuple[Call | None, Outcome]:
    """Makes the call. Whatever goes wrong is in the outcome."""
    service = check.service
    try:
        call = build_call(
            service,
            method="GET",
            path=check.path,
            query={},
            headers={},
            body=b"",
            content_type="",
            identifier=check.attempt.public_id,
            now=now,
        )
    except ValueError as error:
        return None, Outcome(fault=Fault.CONFIG, detail=f"the request cannot be built: {error}")
    within = min(call.total_timeout, float(service.health_check["interval"]))
    call = replace(call, total_timeout=within, connect_timeout=min(call.connect_timeout, within))
    ready = await oauth.authorized(client, service, call)
    if isinstance(ready, Outcome):
        return call, ready
    outcome = await client.send(ready)
    if outcome.status_code == HTTPStatus.UNAUTHORIZED:
        oauth.forget(service)
    return ready, outcome


def record(check: Check, call: Call | None, outcome: Outcome) -> None:
    """Keeps the check, and tells of a service that went down or came back."""
    service = check.service
    is_good = is_expected(outcome.status_code, service.health_check.get("expect") or "2xx") and not _is_cut(outcome)
    facts = call_facts(call, outcome, service.secret_values)
    if is_good:
        facts |= {"fault": "", "detail": ""}  # where another answer than a success is expected
    elif not facts["fault"]:
        facts |= {"fault": Fault.STATUS, "detail": f"answered {outcome.status_code}, which is not what is expected"}
    now = database_now()
    with transaction.atomic():
        health = Health.objects.select_for_update().filter(pk=service.pk).first()
        Attempt.objects.filter(pk=check.attempt.pk).update(
            **facts, outcome=Result.SUCCEEDED if is_good else Result.FAILED
        )
        if health is None:  # it is not checked any more
            return
        before = cast(HealthState, health.state)
        health.state, health.failed_in_a_row, news = next_state(before, health.failed_in_a_row, is_good=is_good)
        if health.state != before:
            health.changed_at = now
        health.checked_at, health.attempt_id = now, check.attempt.pk
        health.detail = "" if is_good else facts["detail"]
        health.save(update_fields=["state", "failed_in_a_row", "changed_at", "checked_at", "attempt_id", "detail"])
        if news:
            cause = {} if is_good else {"cause": health.detail, "attempts": [check.attempt.public_id]}
            Event.objects.create(type=f"service.{news}", at=now, service=service, facts=cause)
        tally.add({service.pk: tally.Counts(checks=1, failed_checks=int(not is_good))}, now)
        _prune(service)


def _is_cut(outcome: Outcome) -> bool:
    """Whether the answer began and did not come to its end."""
    return outcome.fault not in (None, Fault.STATUS)


def _prune(service: Service) -> None:
    # By the index of checks: any other would lead through the process calls made since.
    checks = Attempt.objects.filter(service=service, trigger=Trigger.HEALTH).order_by("-pk")
    Attempt.objects.filter(pk__in=list(checks.values_list("pk", flat=True)[KEPT : 2 * KEPT])).delete()
