"""Services: the list, one of them, its form, and what an operator does to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.db.models import Case, IntegerField, Q, QuerySet, TextField, When
from django.db.models.functions import Cast
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from dashboard import live
from dashboard.access import actor, admin, operator, person, viewer
from dashboard.forms.actions import DeleteForm, PauseForm, ResumeForm
from dashboard.forms.service import EndpointForm, ServiceForm, policy_form
from dashboard.presenters.breaker_history import hold, trips_of
from dashboard.presenters.charts import Span, chart, span_named
from dashboard.presenters.previews import Preview, breaker_preview, retry_preview, trial
from dashboard.presenters.sentences import breaker_rule_words, event_words, limit_words, retry_words
from dashboard.presenters.service_stats import count_unfinished, standings
from dashboard.presenters.slowdowns import pace_of
from dashboard.responses import form_page, posted, see_other
from dashboard.views.messages.send import starting_point
from integrations import errors
from integrations.errors import Conflict
from integrations.history.event_stream import CHANGED, ENDED
from integrations.models import (
    AUTH_SECRETS,
    Certificate,
    Endpoint,
    Event,
    Message,
    Role,
    Service,
    ServiceStatus,
    Source,
)
from integrations.operators import traffic
from integrations.policies import breaker as breaker_policy
from integrations.registration import deletion, endpoints, registry

EVENTS_SHOWN = 12
PAGE = 100
TROUBLE_FIRST = Case(
    When(runtime__state="open", then=0),
    When(runtime__state="half_open", then=1),
    When(status=ServiceStatus.PAUSED, then=2),
    default=3,
    output_field=IntegerField(),
)


# ---- the list -----------------------------------------------------------------------------------------------------
@viewer
def listing(request: HttpRequest) -> HttpResponse:
    return render(request, "services/services.html", _listing_context(request))


@viewer
def listing_panel(request: HttpRequest) -> HttpResponse:
    return live.panel(request, "services/_listing.html", _listing_context(request))


def _listing_context(request: HttpRequest) -> dict[str, Any]:
    search = request.GET.get("q", "").strip()[:200]
    found = _found(search)
    total = found.count()
    page = found.order_by(TROUBLE_FIRST, "name")[:PAGE]
    return {
        "search": search,
        "panel_url": reverse("_services") + (f"?{urlencode({'q': search})}" if search else ""),
        "standings": sorted(standings(page, timezone.now()), key=lambda standing: standing.rank),
        "total": total,
        "limit": PAGE,
    }


def _found(search: str) -> QuerySet[Service]:
    services = Service.objects.all()
    if not search:
        return services
    return services.annotate(tag_text=Cast("tags", TextField())).filter(
        Q(name__icontains=search)
        | Q(base_url__icontains=search)
        | Q(owner__icontains=search)
        | Q(description__icontains=search)
        | Q(tag_text__icontains=search)
    )


# ---- one service --------------------------------------------------------------------------------------------------
@viewer
def detail(request: HttpRequest, name: str) -> HttpResponse:
    context = _panel_context(name, _span(request), with_secrets=True)
    service: Service = context["service"]
    context |= {
        "endpoints": service.endpoints.all()[:500],
        "secrets": _secrets(service),
        "certificate": Certificate.objects.shown_by(service.base_url),
        "retry_words": retry_words(service.retry_policy, timezone.now()),
        "breaker_words": breaker_rule_words(service.breaker_policy),
        "limit_words": limit_words(service),
        "retry_on": ", ".join(map(str, service.retry_policy.retry_on)),
    }
    return render(request, "services/service.html", context)


@viewer
def detail_panel(request: HttpRequest, name: str) -> HttpResponse:
    return live.panel(request, "services/_service.html", _panel_context(name, _span(request)))


def _span(request: HttpRequest) -> Span:
    return span_named(request.GET.get("span"))


def _panel_context(name: str, span: Span, *, with_secrets: bool = False) -> dict[str, Any]:
    now = timezone.now()
    if not (found := standings(Service.objects.filter(name=name), now, with_secrets=with_secrets)):
        raise Http404
    standing, service = found[0], found[0].service
    events = service.events.exclude(type__in=(CHANGED, ENDED)).order_by("-pk")[:EVENTS_SHOWN]
    trips = trips_of(service)
    hold(trips, {service.pk: standing.waiting})
    return {
        "service": service,
        "standing": standing,
        "runtime": standing.runtime,
        "breaker": breaker_policy.summary(standing.runtime.breaker, service.breaker_policy, now),
        "chart": chart(now, span, service),
        "panel_url": f"{reverse('_service', args=[service.name])}?span={span.name}",
        "pace": pace_of(standing, count_waiting=True),
        "trips": trips,
        "opening": trips[0].last if trips and trips[0].is_under_way else None,
        "events": [(event.at, event_words(event), _place_of(event)) for event in events],
    }


def _place_of(event: Event) -> str:
    """The page of what an event is about, where it is not the service."""
    return reverse("failure", args=[event.subject]) if event.type.startswith("failure.") else ""


def _secrets(service: Service) -> list[tuple[str, str | None]]:
    """Each secret that this service's authentication has, and when it was set; never the value."""
    names = AUTH_SECRETS.get(service.auth.get("type", "none"), ())
    return [(name.replace("_", " "), service.secret_set_at(f"auth.{name}")) for name in names]


# ---- the form -----------------------------------------------------------------------------------------------------
@operator
def new(request: HttpRequest) -> HttpResponse:
    may_allow_private = person(request).may(Role.ADMIN)
    form = ServiceForm(posted(request), may_allow_private=may_allow_private)
    if form.is_valid():
        try:
            service = registry.register(
                form.value, actor=actor(request), source=Source.FORM, may_allow_private=may_allow_private
            )
        except errors.Invalid as refusal:
            form.refuse(refusal)
        else:
            messages.success(request, f"{service.name} is registered. Test it, then send it a message.")
            return see_other("service", service.name)
    return form_page(request, "services/edit.html", _form_context(request, form), is_refused=form.is_bound)


@operator
def edit(request: HttpRequest, name: str) -> HttpResponse:
    service = get_object_or_404(Service, name=name)
    may_allow_private = person(request).may(Role.ADMIN)
    form = ServiceForm(
        posted(request),
        service=service,
        present=registry.configuration(service),
        may_allow_private=may_allow_private,
    )
    if form.is_valid():
        had_secrets = set(service.secrets)
        try:
            registry.change(
                service, form.value, form.given_fields, actor=actor(request), may_allow_private=may_allow_private
            )
        except errors.Invalid as refusal:
            form.refuse(refusal)
            service = get_object_or_404(Service, name=name)  # as it is stored, without what was refused
        else:
            messages.success(request, f"{service.name} is changed; the next calls go by it.")
            if lost := had_secrets - set(service.secrets):
                words = ", ".join(sorted(lost))
                messages.warning(request, f"It has another host or authentication now, so it forgot: {words}.")
            return see_other("service", service.name)
    return form_page(request, "services/edit.html", _form_context(request, form, service), is_refused=form.is_bound)


def _form_context(request: HttpRequest, form: ServiceForm, service: Service | None = None) -> dict[str, Any]:
    return {
        "form": form,
        "service": service,
        "shows_all": "all" in request.GET,
        "previews": _previews(posted(request), service),
        "secret_names": ",".join(sorted(ServiceForm.secret)),
    }


def _previews(given: QueryDict | None, service: Service | None) -> dict[str, Callable[[], Preview]]:
    """By group, each made when a template comes to it: most forms show none."""
    return {group: partial(_preview, group, given, service) for group in ("retries", "breaker")}


def _preview(group: str, given: Any, service: Service | None) -> Preview:
    """``given`` is what a form sent, None for the settings in force (the defaults for a service that is not saved)."""
    form = policy_form(given, service, group)
    if errors := form.complaints:
        return Preview(group, errors=errors)
    return retry_preview(form.retry) if group == "retries" else breaker_preview(form.breaker)


@operator
def form_group(request: HttpRequest, group: str, name: str = "") -> HttpResponse:
    """The fields of one group of the form, fetched when somebody unfolds it."""
    service = get_object_or_404(Service, name=name) if name else None
    form = ServiceForm(
        service=service,
        present=registry.configuration(service) if service else None,
        may_allow_private=person(request).may(Role.ADMIN),
    )
    if (shown := form.group(group)) is None:
        raise Http404
    return render(request, "services/_group.html", {"group": shown, "previews": _previews(None, service)})


@operator
@require_POST
def preview_panel(request: HttpRequest, group: str) -> HttpResponse:
    """One group of the form's present values in words, while somebody types."""
    context = {"preview": _preview(group, request.POST, None)}
    return render(request, "services/_preview.html", context)


@operator
@require_POST
def preview_new(request: HttpRequest) -> HttpResponse:
    """The same for both groups as a page: what the form's button opens without JavaScript."""
    return render(request, "services/try.html", {"previews": [one() for one in _previews(request.POST, None).values()]})


@operator
def try_out(request: HttpRequest, name: str) -> HttpResponse:
    """The form's present values, or what is in force, tried on the last day: a page. A busy day takes a moment to try,
    so a page that was only followed to has it fetched."""
    service = get_object_or_404(Service.objects.select_related("runtime"), name=name)
    given = posted(request)
    waits = given is None and "now" not in request.GET
    context = {"service": service, "previews": [one() for one in _previews(given, service).values()], "waits": waits}
    return render(request, "services/try.html", context if waits else context | _trial_context(service, given))


@operator
def trial_panel(request: HttpRequest, name: str) -> HttpResponse:
    """The trial alone, for the form and for that page."""
    service = get_object_or_404(Service.objects.select_related("runtime"), name=name)
    return render(request, "services/_trial.html", _trial_context(service, posted(request)))


def _trial_context(service: Service, given: QueryDict | None) -> dict[str, Any]:
    form = policy_form(given, service, "retries", "breaker")
    if form.complaints:
        return {"service": service, "errors": form.complaints}
    return {"service": service, "trial": trial(service, form.breaker, form.retry)}


# ---- what an operator does ----------------------------------------------------------------------------------------
@operator
def pause(request: HttpRequest, name: str) -> HttpResponse:
    service = get_object_or_404(Service, name=name)
    form = PauseForm(posted(request))
    if form.is_valid():
        try:
            traffic.pause(service, form.value, actor=actor(request))
        except Conflict as conflict:
            form.refuse([(("until",), str(conflict))])
        else:
            messages.success(request, f"{service.name} is paused. What comes for it is kept.")
            return see_other("service", service.name)
    return form_page(request, "services/pause.html", {"form": form, "service": service}, is_refused=form.is_bound)


@operator
def resume(request: HttpRequest, name: str) -> HttpResponse:
    service = get_object_or_404(Service, name=name)
    form = ResumeForm(posted(request))
    if form.is_valid():
        try:
            held = traffic.resume(service, form.value, actor=actor(request))
        except Conflict as conflict:
            form.refuse([((), str(conflict))])
        else:
            messages.success(request, f"{service.name} goes on." + (f" {held:,} messages stay held." if held else ""))
            return see_other("service", service.name)
    return form_page(request, "services/resume.html", {"form": form, "service": service}, is_refused=form.is_bound)


@admin
def delete(request: HttpRequest, name: str) -> HttpResponse:
    service = get_object_or_404(Service, name=name)
    # Counting ends at the cap, like everywhere.
    unfinished = count_unfinished(Message.objects.for_service(service))
    form = DeleteForm(posted(request))
    if form.is_bound and form.is_valid():
        if unfinished and not form.cleaned_data["force"]:
            form.add_error("force", "It has unfinished messages. Say that they may be cancelled, or let them finish.")
        else:
            try:
                deletion.delete(service, force=form.cleaned_data["force"], actor=actor(request))
            except Conflict as refusal:
                form.add_error(None, str(refusal))
            else:
                messages.success(request, f"{name} is deleted with its history.")
                return see_other("services")
    context = {"form": form, "service": service, "unfinished": unfinished}
    return form_page(request, "services/delete.html", context, is_refused=form.is_bound)


# ---- endpoints ----------------------------------------------------------------------------------------------------
@operator
def endpoint_new(request: HttpRequest, name: str) -> HttpResponse:
    return _endpoint_form(request, get_object_or_404(Service, name=name), None)


@operator
def endpoint_edit(request: HttpRequest, name: str, endpoint: str) -> HttpResponse:
    found = get_object_or_404(Endpoint.objects.select_related("service"), service__name=name, name=endpoint)
    return _endpoint_form(request, found.service, found)


def _endpoint_form(request: HttpRequest, service: Service, endpoint: Endpoint | None) -> HttpResponse:
    form = EndpointForm(posted(request), present=endpoints.configuration(endpoint) if endpoint else None)
    if endpoint is None and "attempt" in request.GET:  # a call of the lab that is to be kept
        form.initial = {**form.initial, **{name: text for name, text in starting_point(request).items() if text}}
    name = endpoint.name if endpoint else ""
    if form.is_valid():
        try:
            saved = endpoints.save(service, form.value, actor=actor(request), endpoint=endpoint)
        except errors.Invalid as refusal:
            form.refuse(refusal)
        else:
            messages.success(request, f"The endpoint {saved.name} is saved.")
            return see_other("service", service.name)
    context = {"form": form, "service": service, "endpoint_name": name}
    return form_page(request, "services/endpoint.html", context, is_refused=form.is_bound)


@operator
@require_POST
def endpoint_delete(request: HttpRequest, name: str, endpoint: str) -> HttpResponse:
    found = get_object_or_404(Endpoint, service__name=name, name=endpoint)
    endpoints.delete(found, actor=actor(request))
    messages.success(request, f"The endpoint {endpoint} is deleted. Messages that used it keep their path.")
    return see_other("service", name)
