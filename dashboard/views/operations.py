"""Bulk operations: from the selection in the list of messages to the result of each message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import messages as toasts
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from dashboard import live
from dashboard.access import actor, operator, viewer
from dashboard.presenters.pagination import page
from dashboard.responses import say_done, see_other
from integrations.errors import Conflict, Invalid
from integrations.models import Message, Operation, Service
from integrations.models.operation import NO_LIMIT, Item, ItemOutcome, Kind
from integrations.operators import bulk_operations, operation_calls, replay_results
from integrations.operators.replay_results import ReplayResult

LABELS = {
    Kind.REPLAY: "Replay",
    Kind.CANCEL: "Cancel",
    Kind.RETRY_NOW: "Retry now",
    Kind.DELETE: "Delete service",
    Kind.INDEX: "Index field",
}
SHOWN = ("nonce", "status", "method", "path", "service__name")


class StartForm(forms.Form):
    """The reason, the rate and the end of an operation, before it starts."""

    reason = forms.CharField(
        max_length=500, help_text="Recorded with the operation and in the audit log.", widget=forms.TextInput()
    )
    auto = forms.BooleanField(
        required=False,
        label="Find the pace that the receiver bears",
        help_text="Starts slowly, doubles while calls succeed, and halves when they fail or slow down. It never opens "
        "the breaker by itself.",
    )
    rate = forms.FloatField(
        required=False,
        label="Messages per second",
        min_value=bulk_operations.SLOWEST,
        max_value=bulk_operations.RATE_LIMIT,
        initial=f"{bulk_operations.RATE:g}",
        help_text="You can change it while the operation runs.",
    )
    stop_at_failure_rate = forms.FloatField(
        required=False,
        label="Stop at this share of failed calls",
        min_value=0.01,
        max_value=1,
        initial="0.5",
        help_text="0.5 stops it when more than half of its latest 100 calls failed, after five calls at the earliest. "
        "Empty: it never stops by itself.",
    )

    def __init__(self, operation: Operation, *given: Any) -> None:
        super().__init__(*given)
        if operation.kind == Kind.CANCEL:  # without calls
            del self.fields["auto"], self.fields["stop_at_failure_rate"]
            self.fields["rate"].initial = None
            self.fields["rate"].help_text = "Empty: as fast as the database allows, while others go on."

    def clean(self) -> dict[str, Any]:
        """Let ``rate`` be a number, ``auto``, or NO_LIMIT for an operation without calls."""
        given: dict[str, Any] = self.cleaned_data
        if given.get("auto"):
            given["rate"] = "auto"
        elif "rate" not in self.errors and given.get("rate") is None:
            if "auto" in self.fields:
                self.add_error("rate", "Enter a number, or let it find the pace.")
            given["rate"] = NO_LIMIT
        return given


class RateForm(forms.Form):
    rate = forms.FloatField(
        label="Messages per second", min_value=bulk_operations.SLOWEST, max_value=bulk_operations.RATE_LIMIT
    )


# ---- the list -----------------------------------------------------------------------------------------------------
@viewer
@require_GET
def listing(request: HttpRequest) -> HttpResponse:
    return render(request, "operations/listing.html", _listing_context(request))


@viewer
@require_GET
def listing_panel(request: HttpRequest) -> HttpResponse:
    return live.panel(request, "operations/_rows.html", _listing_context(request))


def _listing_context(request: HttpRequest) -> dict[str, Any]:
    cursor = request.GET.get("cursor", "")
    shown = page(Operation.objects.all(), cursor)
    return {
        "operations": shown.rows,
        "results": replay_results.results_of(shown.rows, count=False),
        "page": shown,
        "panel_url": f"{reverse('_operations')}?{urlencode({'cursor': cursor})}",
        "older_url": f"?{urlencode({'cursor': shown.older})}",
        "newer_url": f"?{urlencode({'cursor': shown.newer})}",
    }


# ---- a new one ----------------------------------------------------------------------------------------------------
@operator
@require_POST
def new(request: HttpRequest) -> HttpResponse:
    """Plan a dry run over the selected messages. Its page shows its content and asks for confirmation."""
    back = request.POST.get("back", "")
    q = request.POST.get("q", "") if "all" in request.POST else _selected(request.POST)
    try:
        kind = Kind(request.POST.get("kind", ""))
        operation = bulk_operations.plan(kind, q, by=actor(request), dry_run=True)
    except ValueError:
        toasts.error(request, "Not planned. Choose an action.")
    except Invalid as refusal:
        toasts.error(request, f"Not planned: {refusal}.")
    else:
        return see_other("operation", operation.public_id)
    return see_other(f"{reverse('messages')}?{QueryDict(back).urlencode()}")


def _selected(form: QueryDict) -> str:
    selected = form.getlist("id")
    return f"id:{','.join(selected)}" if selected else ""


# ---- one operation ------------------------------------------------------------------------------------------------
@viewer
@require_GET
def detail(request: HttpRequest, public_id: str) -> HttpResponse:
    operation = _operation_or_404(public_id)
    return _page(request, operation, StartForm(operation))


@viewer
@require_GET
def detail_panel(request: HttpRequest, public_id: str) -> HttpResponse:
    """The live part of an operation's page."""
    return live.panel(request, "operations/_progress.html", _context(request, _operation_or_404(public_id)))


def _page(request: HttpRequest, operation: Operation, form: StartForm, status: int = 200) -> HttpResponse:
    return render(request, "operations/detail.html", {**_context(request, operation), "form": form}, status=status)


def _operation_or_404(public_id: str) -> Operation:
    operation = Operation.objects.by_public_id(public_id)
    if operation is None:
        raise Http404("There is no operation with this ID.")
    return operation


def _context(request: HttpRequest, operation: Operation) -> dict[str, Any]:
    outcome = request.GET.get("outcome", "")
    outcome = outcome if outcome in (*ItemOutcome.values, "left") else ""
    items = operation.items.all()
    if outcome:
        items = items.filter(outcome="" if outcome == "left" else outcome)
    cursor = request.GET.get("cursor", "")
    shown = page(items, cursor)
    state = {"outcome": outcome, "cursor": cursor}
    results = replay_results.results_of([operation])
    return {
        "operation": operation,
        "results": results,
        "verb": LABELS[Kind(operation.kind)],
        "form": StartForm(operation),
        "rate_form": RateForm(initial={"rate": f"{operation.rate:.3g}"}),
        "pace": (pace := operation_calls.adaptive(operation)),
        "pace_changed_at": operation_calls.changed_at(pace) if pace else None,
        "services": _services(operation),
        "left": operation.total - operation.done,
        "seconds_left": bulk_operations.seconds_left(operation, timezone.now()),
        "share": 100 * operation.done // operation.total if operation.total else 0,
        "planned_share": 100 * operation.planned_to // operation.planned_until if operation.planned_until else 100,
        "items": _with_messages(operation, shown.rows),
        "page": shown,
        "tabs": _tabs(operation, outcome),
        "panel_url": f"{reverse('_operation', args=[operation.public_id])}?{urlencode(state)}",
        "topics": _topics(operation, results.get(operation.pk)),
        "older_url": f"?{urlencode({'outcome': outcome, 'cursor': shown.older})}",
        "newer_url": f"?{urlencode({'outcome': outcome, 'cursor': shown.newer})}",
    }


def _topics(operation: Operation, result: ReplayResult | None) -> str:
    """The topics that change its page: the operation, and the messages that it has made until they are all finished."""
    topic = f"operation:{operation.public_id}"
    return f"{topic} messages" if result and result.unfinished else topic


def _services(operation: Operation) -> list[tuple[str, int]]:
    """The services of its messages with their counts, largest first; deleted services are left out."""
    counts = {int(pk): count for pk, count in operation.estimate.get("services", {}).items()}
    names = dict(Service.objects.filter(pk__in=counts).values_list("pk", "name")) if counts else {}
    named = [(names[pk], count) for pk, count in counts.items() if pk in names]
    return sorted(named, key=lambda pair: -pair[1])


def _tabs(operation: Operation, outcome: str) -> list[dict[str, Any]]:
    counts = {
        "": operation.total,
        "succeeded": operation.succeeded,
        "failed": operation.failed,
        "skipped": operation.skipped,
        "left": operation.total - operation.done,
    }
    # A replay counts as done once the new message is queued; the table has a column for the new message's status.
    labels = {
        "": "All",
        "left": "Remaining",
        "succeeded": "Requeued" if operation.kind == Kind.REPLAY else "Succeeded",
    }
    return [
        {
            "label": labels.get(name) or name.capitalize(),
            "count": count,
            "url": f"?{urlencode({'outcome': name})}" if name else "?",
            "is_current": name == outcome,
        }
        for name, count in counts.items()
    ]


def _with_messages(operation: Operation, items: list[Item]) -> list[dict[str, Any]]:
    """Each item with its message and its replay, in two queries; None for pruned ones."""
    ids = [item.message_id for item in items]
    if not ids:
        return []
    messages = Message.objects.filter(pk__any=ids).select_related("service").only(*SHOWN).in_bulk()
    made = list(Message.objects.filter(replay_of__any=ids, operation_id=operation.pk))
    Message.objects.add_standing(made)
    replays = {replay.replay_of_id: replay for replay in made}
    return [
        {"item": item, "message": messages.get(item.message_id), "replay": replays.get(item.message_id)}
        for item in items
    ]


# ---- actions ------------------------------------------------------------------------------------------------------
@operator
@require_http_methods(["GET", "POST"])
def start(request: HttpRequest, public_id: str) -> HttpResponse:
    """Start the operation that a dry run planned."""
    operation = _operation_or_404(public_id)
    if request.method == "GET":
        return see_other("operation", public_id)
    form = StartForm(operation, request.POST)
    if not form.is_valid():
        return _page(request, operation, form, status=422)
    given = form.cleaned_data
    return _act(
        request,
        lambda: bulk_operations.start(
            operation,
            by=actor(request),
            reason=given["reason"],
            rate=given["rate"],
            stop_at_failure_rate=given.get("stop_at_failure_rate"),
        ),
        operation,
        "Started.",
    )


@operator
@require_POST
def change(request: HttpRequest, public_id: str) -> HttpResponse:
    operation = _operation_or_404(public_id)
    if "auto" in request.POST:
        return _act(
            request,
            lambda: bulk_operations.change(operation, by=actor(request), rate="auto"),
            operation,
            "It finds its pace from now on.",
        )
    form = RateForm(request.POST)
    if not form.is_valid():
        toasts.error(request, f"Not changed: {form.errors['rate'][0]}")
        return see_other("operation", public_id)
    rate = form.cleaned_data["rate"]
    return _act(
        request, lambda: bulk_operations.change(operation, by=actor(request), rate=rate), operation, "Rate changed."
    )


@operator
@require_POST
def pause(request: HttpRequest, public_id: str) -> HttpResponse:
    operation = _operation_or_404(public_id)
    return _act(
        request, lambda: bulk_operations.pause(operation, by=actor(request)), operation, "Paused.", "operation-resume"
    )


@operator
@require_POST
def resume(request: HttpRequest, public_id: str) -> HttpResponse:
    operation = _operation_or_404(public_id)
    return _act(
        request, lambda: bulk_operations.resume(operation, by=actor(request)), operation, "Resumed.", "operation-pause"
    )


@operator
@require_POST
def cancel(request: HttpRequest, public_id: str) -> HttpResponse:
    operation = _operation_or_404(public_id)
    return _act(request, lambda: bulk_operations.cancel(operation, by=actor(request)), operation, "Cancelled.")


def _act(
    request: HttpRequest, verb: Callable[[], None], operation: Operation, done: str, undo: str = ""
) -> HttpResponse:
    try:
        verb()
        say_done(request, done, undo, operation.public_id)
    except (Conflict, Invalid) as refusal:
        toasts.error(request, f"Not done: {refusal}.")
    return see_other("operation", operation.public_id)
