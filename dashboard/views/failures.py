"""Failure groups, most harmful first, and one group with its sample call, replay and decisions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import messages as toasts
from django.db.models import BigIntegerField, Count
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from dashboard import live
from dashboard.access import actor, operator, viewer
from dashboard.presenters.sparkline import sparklines
from dashboard.responses import form_page, posted, say_done, see_other
from integrations.errors import Conflict, Invalid
from integrations.models import Account, Attempt, Failure, FailureState, Message, Operation, Service
from integrations.models.failure import UNRESOLVED, FailureQuerySet
from integrations.models.message import MessageQuerySet
from integrations.operators import failures, replay_results
from integrations.schemas.actions import FailureIn

SHOWN = 100  # groups on the list
COUNTED = 10_000  # dead messages; “10,000+” says enough
OPERATIONS = 5
BODY_SHOWN = 16 * 1024
STATES = {
    "": ("Open", UNRESOLVED),
    "resolved": ("Resolved", (FailureState.RESOLVED,)),
    "ignored": ("Ignored", (FailureState.IGNORED,)),
    "all": ("All", tuple(FailureState)),
}
IGNORE_TIMES = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7), "ever": None}


class NoteForm(forms.Form):
    """The note and the assignee of a group."""

    note = forms.CharField(
        required=False,
        max_length=4000,
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text="For example a link to a runbook.",
    )
    assignee = forms.ChoiceField(required=False)

    def __init__(self, *given: Any, assignee: str, **options: Any) -> None:
        super().__init__(*given, **options)
        names = set(Account.objects.filter(is_active=True).values_list("username", flat=True))
        # A deactivated assignee stays until an operator changes it.
        self.fields["assignee"] = forms.ChoiceField(
            required=False, choices=[("", "Unassigned"), *((name, name) for name in sorted(names | {assignee} - {""}))]
        )


# ---- the list -----------------------------------------------------------------------------------------------------
@viewer
@require_GET
def listing(request: HttpRequest) -> HttpResponse:
    return render(request, "failures/listing.html", _listing_context(request))


@viewer
@require_GET
def listing_panel(request: HttpRequest) -> HttpResponse:
    return live.panel(request, "failures/_rows.html", _listing_context(request))


def _listing_context(request: HttpRequest) -> dict[str, Any]:
    now = timezone.now()
    state = request.GET.get("state", "")
    state = state if state in STATES else ""
    name = request.GET.get("service", "")[:63]
    groups = Failure.objects.filter(service__name=name) if name else Failure.objects.all()
    counts = groups.by_state()
    chosen = _with_names(groups.filter(state__in=STATES[state][1])).most_harmful_first(now)
    found = list(chosen[:SHOWN])
    sparks = sparklines([failure.pk for failure in found], now)
    total = sum(counts.get(each, 0) for each in STATES[state][1])
    return {
        "groups": [{"failure": failure, "spark": sparks[failure.pk]} for failure in found],
        "total": total,
        "state": state,
        "service_name": name,
        "service_names": list(Service.objects.order_by("name").values_list("name", flat=True)),
        "tabs": [
            {
                "label": label,
                "count": sum(counts.get(each, 0) for each in states),
                "url": "?" + urlencode({**({"service": name} if name else {}), **({"state": key} if key else {})}),
                "is_current": key == state,
            }
            for key, (label, states) in STATES.items()
        ],
        "panel_url": f"{reverse('_failures')}?{urlencode({'state': state, 'service': name})}",
        "has_any": bool(counts) or Failure.objects.exists(),
        "summary": _summary(counts),
    }


def _summary(counts: dict[str, int]) -> str:
    unresolved = sum(counts.get(state, 0) for state in UNRESOLVED)
    if not unresolved:
        return "No open failures"
    regressed = counts.get(FailureState.REGRESSED, 0)
    parts = [f"{unresolved} open", *([f"{regressed} regressed"] if regressed else [])]
    return " · ".join([*parts, "most affected messages in the last 24 h first"])


def _with_names(groups: FailureQuerySet) -> FailureQuerySet:
    return groups.select_related("service", "endpoint").only(
        *(field.name for field in Failure._meta.concrete_fields), "service__name", "endpoint__name"
    )


# ---- one group ----------------------------------------------------------------------------------------------------
@viewer
@require_GET
def detail(request: HttpRequest, public_id: str) -> HttpResponse:
    failure = _failure_or_404(public_id)
    return render(request, "failures/detail.html", {**_detail_context(failure), "form": _note_form(failure)})


@viewer
@require_GET
def detail_panel(request: HttpRequest, public_id: str) -> HttpResponse:
    return live.panel(request, "failures/_way_out.html", _detail_context(_failure_or_404(public_id)))


def _failure_or_404(public_id: str) -> Failure:
    failure = _with_names(Failure.objects.all()).by_public_id(public_id)
    if failure is None:
        raise Http404("There is no failure group with this ID.")
    return failure


def _detail_context(failure: Failure) -> dict[str, Any]:
    selection = f"failure:{failure.public_id}"
    call = Attempt.objects.select_related("message").filter(pk=failure.attempt_id).first()
    # By service too: its index of dead messages is the shorter one if most messages of a group were delivered later.
    dead = Message.objects.dead().filter(service=failure.service_id, failure=failure)
    operations = list(Operation.objects.filter(filter__contains=selection).order_by("-pk")[:OPERATIONS])
    return {
        "failure": failure,
        "because": _because(failure),
        "spark": sparklines([failure.pk], timezone.now())[failure.pk],
        "sample": _sample(failure, call),
        "call": call,
        "body_shown": BODY_SHOWN,
        "dead": _lineages(dead),
        "unanswered": dead.unreplayed()[:COUNTED].count(),
        "selection": selection,
        "affected_query": urlencode({"q": selection}),
        "replay_q": f"{selection} status:dead",
        "operations": operations,
        "results": replay_results.results_of(operations),
        "panel_url": reverse("_failure", args=[failure.public_id]),
    }


def _sample(failure: Failure, call: Attempt | None) -> Message | None:
    """Its last message, which most often is that of its last call."""
    if call and call.message_id and call.message_id == failure.sample_id:
        return call.message
    return Message.objects.filter(pk=failure.sample_id).first() if failure.sample_id else None


def _lineages(messages: MessageQuerySet) -> int:
    """The number of messages, each once with all its replays."""
    counted = messages.annotate(lineage=Coalesce("lineage_id", "pk", output_field=BigIntegerField()))[
        :COUNTED
    ].aggregate(lineages=Count("lineage", distinct=True))
    return int(counted["lineages"])


def _because(failure: Failure) -> list[tuple[str, str]]:
    """The common properties of its calls as (label, text), in the order in which grouping compares them."""
    because = failure.because
    rows = [
        ("Service", failure.service.name),
        ("Endpoint", failure.endpoint.name if failure.endpoint else "none"),
        ("Phase", because.get("phase", "")),
        ("Status code", str(failure.status_code or "")),
        ("Fault", failure.fault.replace("_", " ") if failure.fault != "status" else ""),
        ("Error code", because.get("code", "")),
        ("JSON fields", ", ".join(because.get("names", ()))),
        ("Text", because.get("text", "")),
        ("Other", because.get("other", "")),
    ]
    return [(label, text) for label, text in rows if text]


# ---- decisions ----------------------------------------------------------------------------------------------------
@operator
@require_POST
def resolve(request: HttpRequest, public_id: str) -> HttpResponse:
    resolved = FailureIn(state="resolved")
    return _decide(request, public_id, resolved, "Resolved. A new failure reopens it.", undo="failure-open")


@operator
@require_POST
def reopen(request: HttpRequest, public_id: str) -> HttpResponse:
    return _decide(request, public_id, FailureIn(state="open"), "Reopened.")


@operator
@require_POST
def ignore(request: HttpRequest, public_id: str) -> HttpResponse:
    if (name := request.POST.get("for", "ever")) not in IGNORE_TIMES:
        toasts.error(request, f"Not changed. Use one of {', '.join(IGNORE_TIMES)}.")
        return see_other("failure", public_id)
    span = IGNORE_TIMES[name]
    until = timezone.now() + span if span else None
    done = f"Ignored {f'for 1 {name}' if span else 'forever'}. Failures are still counted, but not reported."
    return _decide(request, public_id, FailureIn(state="ignored", ignored_until=until), done, undo="failure-open")


def _decide(request: HttpRequest, public_id: str, data: FailureIn, done: str, undo: str = "") -> HttpResponse:
    failure = _failure_or_404(public_id)
    try:
        failures.change(failure, data, actor=actor(request))
    except (Conflict, Invalid) as refusal:
        toasts.error(request, f"Not changed: {refusal}.")
    else:
        say_done(request, done, undo, public_id)
    return see_other("failure", failure.public_id)


@operator
@require_http_methods(["GET", "POST"])
def note(request: HttpRequest, public_id: str) -> HttpResponse:
    """The note and the assignee. The group's page has the form; a form with errors gets its own page."""
    failure = _failure_or_404(public_id)
    form = _note_form(failure, posted(request))
    if form.is_bound and form.is_valid():
        try:
            failures.change(failure, FailureIn.model_validate(form.cleaned_data), actor=actor(request))
        except Invalid as refusal:
            for location, text in refusal.errors:
                form.add_error(str(location[0]), text)
        except Conflict as refusal:
            form.add_error(None, f"Not changed: {refusal}.")
        else:
            toasts.success(request, "Note saved.")
            return see_other("failure", failure.public_id)
    return form_page(request, "failures/note.html", {"failure": failure, "form": form}, is_refused=form.is_bound)


def _note_form(failure: Failure, given: Any = None) -> NoteForm:
    initial = {"note": failure.note, "assignee": failure.assignee}
    return NoteForm(given, initial=initial, assignee=failure.assignee)
