"""One service: its state, charts, breaker history, settings and events."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from dashboard import live
from dashboard.access import viewer
from dashboard.presenters.breaker_history import add_waiting, open_periods_of
from dashboard.presenters.charts import chart, time_range_of
from dashboard.presenters.sentences import breaker_rules, event_summary, limit_summary, retry_summary
from dashboard.presenters.service_stats import standings
from dashboard.presenters.slowdowns import slowdowns_of
from integrations.models import AUTH_SECRETS, MESSAGES_CHANGED, MESSAGES_ENDED, Certificate, Event, Operation, Service
from integrations.policies import breaker as breaker_policy

EVENTS_SHOWN = 12


@viewer
def detail(request: HttpRequest, name: str) -> HttpResponse:
    context = _panel_context(request, name, with_secrets=True)
    service: Service = context["service"]
    context |= {
        "affected_query": urlencode({"service": service.name}),
        "endpoints": service.endpoints.all()[:500],
        "secrets": _secrets(service),
        "certificate": Certificate.objects.for_url(service.base_url),
        "retry_summary": retry_summary(service.retry_policy, timezone.now()),
        "breaker_summary": breaker_rules(service.breaker_policy),
        "limit_summary": limit_summary(service),
        "networks_ended": service.networks_have_ended(timezone.now()),
        "retry_on": ", ".join(map(str, service.retry_policy.retry_on)),
    }
    return render(request, "services/service.html", context)


@viewer
def detail_panel(request: HttpRequest, name: str) -> HttpResponse:
    return live.panel(request, "services/_service.html", _panel_context(request, name))


def _panel_context(request: HttpRequest, name: str, *, with_secrets: bool = False) -> dict[str, Any]:
    now = timezone.now()
    time_range = time_range_of(request.GET, now)
    if not (found := standings(Service.objects.filter(name=name), now, with_secrets=with_secrets)):
        raise Http404
    standing, service = found[0], found[0].service
    events = service.events.exclude(type__in=(MESSAGES_CHANGED, MESSAGES_ENDED)).order_by("-pk")[:EVENTS_SHOWN]
    open_periods = open_periods_of(service)
    add_waiting(open_periods, {service.pk: standing.waiting})
    return {
        "service": service,
        "standing": standing,
        "runtime": standing.runtime,
        "breaker": breaker_policy.summary(standing.runtime.breaker, service.breaker_policy, now),
        "chart": chart(time_range, service),
        "panel_url": f"{reverse('_service', args=[service.name])}?{time_range.query}",
        "slowdowns": slowdowns_of(standing, count_waiting=True),
        "open_periods": open_periods,
        "deletion": Operation.objects.deleting(service.pk).first() if service.is_being_deleted else None,
        "opening": open_periods[0].last if open_periods and open_periods[0].is_ongoing else None,
        "events": [(event, event_summary(event), _failure_url(event)) for event in events],
    }


def _failure_url(event: Event) -> str:
    """The page of the failure that an event is about; empty for events of the service itself."""
    return reverse("failure", args=[event.subject]) if event.type.startswith("failure.") else ""


def _secrets(service: Service) -> list[tuple[str, str | None]]:
    """The names of this service's authentication secrets, and when each was set; never the values."""
    names = AUTH_SECRETS.get(service.auth.get("type", "none"), ())
    return [(name.replace("_", " "), service.secret_set_at(f"auth.{name}")) for name in names]
