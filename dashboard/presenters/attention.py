"""The overview's list of problems: one row per service in trouble with all its reasons, then the other failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlencode

from django.urls import reverse

from dashboard.presenters.service_stats import DEAD_CAP, WAITING_CAP, Standing
from integrations.models import Failure

ACTIONS_SHOWN = 2  # in a row


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason of a row, such as “down since 14:03” or “20 dead”."""

    text: str
    count: int | None = None
    cap: int = WAITING_CAP
    at: datetime | None = None
    url: str = ""
    is_red: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """A button of a row; ``needs_operator`` hides it from viewers, and ``in_dialog`` opens its form on the page."""

    label: str
    url: str
    needs_operator: bool = False
    in_dialog: bool = False


@dataclass(slots=True)
class ServiceTrouble:
    """A row: a service in trouble, with the failure groups of its own that are new or came back."""

    standing: Standing
    failures: list[Failure] = field(default_factory=list)

    @property
    def icon(self) -> str:
        standing = self.standing
        if standing.is_unwell:
            return "warning"
        if standing.is_open or standing.is_probing or standing.is_unguarded:
            return "breakers"
        if standing.is_late or standing.certificate:
            return "clock"
        return "pause" if standing.service.is_paused else "dead"

    @property
    def is_red(self) -> bool:
        return any(reason.is_red for reason in self.reasons)

    @property
    def reasons(self) -> list[Reason]:
        return list(_reasons(self.standing, self.failures))

    @property
    def details(self) -> list[Reason]:
        """The causes, and the next step."""
        return list(_details(self.standing))

    @property
    def actions(self) -> list[Action]:
        return list(_actions(self.standing, self.failures))[:ACTIONS_SHOWN]


def with_failures(
    troubled: Sequence[Standing], groups: Iterable[Failure]
) -> tuple[list[ServiceTrouble], list[Failure]]:
    """A row for each service in trouble, and the failure groups of the services without other trouble."""
    rows = {standing.service.pk: ServiceTrouble(standing) for standing in troubled}
    others = []
    for group in groups:
        if row := rows.get(group.service_id):
            row.failures.append(group)
        else:
            others.append(group)
    return list(rows.values()), others


def _reasons(standing: Standing, failures: Sequence[Failure]) -> Iterator[Reason]:
    service, runtime, name = standing.service, standing.runtime, standing.service.name
    if standing.is_open:
        text = "forced open since" if runtime.mode == "forced_open" else "down since"
        yield Reason(text, at=runtime.opened_at, url=f"{_page(name)}#breaker", is_red=True)
    elif standing.is_unwell and standing.check:
        url = f"{reverse('service-calls', args=[name])}?trigger=health"
        yield Reason("failing its health check since", at=standing.check.changed_at, url=url, is_red=True)
    elif standing.is_probing:
        yield Reason("being probed", url=f"{_page(name)}#breaker")
    elif standing.is_late:
        yield Reason("behind, oldest due at", at=standing.oldest_due, url=_messages(name, "pending"))
    if service.is_paused:
        yield Reason("paused")
    if standing.waiting and standing.rank[0] < 4:
        yield Reason("waiting" if standing.is_late else "held", count=standing.waiting, url=_messages(name, "pending"))
    if standing.dead:
        yield Reason("dead", count=standing.dead, cap=DEAD_CAP, url=_messages(name, "dead"), is_red=True)
    if standing.is_unguarded:
        text = "breaker only observes" if runtime.mode == "observe" else "breaker switched off"
        yield Reason(text, url=f"{_page(name)}#breaker")
    if certificate := standing.certificate:
        text = "certificate expired on" if certificate.has_ended else "certificate expires on"
        yield Reason(text, at=certificate.ends_at, url=f"{_page(name)}#registration", is_red=certificate.has_ended)
    regressed = sum(failure.state == "regressed" for failure in failures)
    for count, words in ((regressed, "regressed"), (len(failures) - regressed, "new")):
        if count:
            yield Reason(f"{words} failure{'s' if count > 1 else ''}", count=count, url=_failures(name, failures))


def _details(standing: Standing) -> Iterator[Reason]:
    service, runtime = standing.service, standing.runtime
    if standing.is_open or standing.is_probing or standing.is_unguarded:
        if runtime.reason:
            yield Reason(runtime.reason)
        if standing.is_unguarded and runtime.mode_until:
            yield Reason("until", at=runtime.mode_until)
        if standing.is_open and standing.probe_is_due:
            yield Reason("a probe is due")
        elif standing.is_open and runtime.retry_at:
            yield Reason("next probe", at=runtime.retry_at)
    elif standing.is_unwell and standing.check:
        yield Reason(f"{standing.check.detail}; the breaker still lets messages through")
    elif standing.is_late and standing.is_throttled:
        yield Reason("the service asked for a pause until", at=runtime.throttled_until)
    if service.is_paused:
        yield Reason(service.paused_reason or "no reason given")
        if service.paused_until:
            yield Reason("resumes", at=service.paused_until)
    if standing.certificate:
        yield Reason(standing.certificate.address)


def _actions(standing: Standing, failures: Sequence[Failure]) -> Iterator[Action]:
    service, name = standing.service, standing.service.name
    lab, breaker = f"{reverse('lab')}?{urlencode({'service': name})}", reverse("breaker-override", args=[name])
    if failures:
        yield Action("Investigate", _failures(name, failures))
    if standing.is_open:
        yield Action("Test", lab)
        yield Action("Breaker", f"{_page(name)}#breaker")
    elif standing.is_unwell:
        yield Action("Test", f"{lab}&{urlencode({'method': 'GET', 'path': service.health_check['path']})}")
        yield Action("Checks", f"{reverse('service-calls', args=[name])}?trigger=health")
    elif standing.is_probing:
        yield Action("Breaker", f"{_page(name)}#breaker")
    elif standing.is_late and standing.is_throttled:
        yield Action("Resume calls…", breaker, needs_operator=True, in_dialog=True)
    if service.is_paused:
        yield Action("Resume", reverse("service-resume", args=[name]), needs_operator=True, in_dialog=True)
    if standing.is_unguarded:
        yield Action("Override…", breaker, needs_operator=True, in_dialog=True)
    if standing.dead:
        yield Action("View messages", _messages(name, "dead"))
    elif standing.is_late:
        yield Action("View messages", _messages(name, "pending"))
    if standing.certificate:
        yield Action("Test", lab)


def _page(name: str) -> str:
    return reverse("service", args=[name])


def _messages(name: str, status: str) -> str:
    return f"{reverse('messages')}?{urlencode({'service': name, 'status': status})}"


def _failures(name: str, failures: Sequence[Failure]) -> str:
    if len(failures) == 1:
        return reverse("failure", args=[failures[0].public_id])
    return f"{reverse('failures')}?{urlencode({'service': name})}"
