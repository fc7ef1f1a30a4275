"""Messages: finding them, sending one by hand, and everything about a single one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages as toasts
from django.db import transaction
from django.db.models import Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render, resolve_url
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from dashboard import live
from dashboard.access import actor, operator, person, viewer
from dashboard.answers import NotThere, see_other
from dashboard.message_forms import (
    ReplayForm,
    SendForm,
    as_lines,
    editable_body,
    edited_parts,
    endpoints_of,
    from_attempt,
    from_draft,
    from_endpoint,
)
from dashboard.once import fresh_key, once
from dashboard.payload import VIEWS, curl
from dashboard.search import Page, filters_of, page, plain_query, read
from dashboard.timeline import (
    ACTS,
    SERVICE_EVENTS,
    Window,
    cancel_impact,
    next_step,
    planned,
    retry_impact,
    timeline,
)
from integrations import control, intake, lab, retention, waiting
from integrations.models import (
    Attempt,
    AuditEntry,
    Conflict,
    Draft,
    Endpoint,
    Event,
    Failure,
    Message,
    Operation,
    SavedView,
    Status,
)
from integrations.redaction import redacted_headers
from integrations.registry import Invalid
from integrations.schemas import ReplayIn, TooLarge
from integrations.search import SEARCHED, Found, Search, listed

NEW_LIMIT = 100  # “99+ new” says enough
ON_SCREEN = 100  # rows that a panel asks for again
ATTEMPTS_SHOWN = 20
ACTS_SHOWN = 50
EVENTS_SEARCHED = 1000  # of the service and of the types that are shown, newest first
EVENTS_SHOWN = 20
NEIGHBOURS_SEARCHED = 500  # messages of the service on each side
REPLAYS_SHOWN = 20
ATTEMPT_BODY_SHOWN = 16 * 1024  # of each attempt; the page shows many of them


# ---- the list -----------------------------------------------------------------------------------------------------
@viewer
@require_GET
def listing(request: HttpRequest) -> HttpResponse:
    if target := _named_in(request.GET.get("q", "").strip()):
        return HttpResponseRedirect(target)
    form, search = read(request.GET)
    if plain := plain_query(request.GET, search):
        return HttpResponseRedirect(f"?{plain.urlencode()}")
    found = Found(search)
    _know_service(search, found)
    # What cannot be read would find too much, and there are buttons for all that is found.
    shown = Page(rows=[]) if search.problems else page(found, request.GET.get("cursor", ""))
    _with_services(shown.rows, found)
    if shown.refused:
        search.problems.append("The place in the list is not known any more; this is its beginning")
    context = {
        **_listing_context(request, found, shown),
        "form": form,
        "search": search,
        "searched": f"{SEARCHED:,}",
        "views": SavedView.objects.shown_to(person(request)),
        "service_names": list(found.services),
        "has_any": bool(shown.rows) or Message.objects.exists(),
        "more_filters": any(name in search.values for name in MORE_FILTERS),
    }
    return render(request, "messages/listing.html", context)


MORE_FILTERS = ("dead_reason", "fault", "status_code", "ordering_key", "created_after", "created_before", "endpoint")


@viewer
@require_GET
def listing_panel(request: HttpRequest) -> HttpResponse:
    """The rows that are on the screen, as they are now, and how many newer ones there are. No row ever moves."""
    found = Found(read(request.GET)[1])
    ids = [
        int(part) for part in request.GET.get("rows", "").split("-")[:ON_SCREEN] if part.isdecimal() and len(part) < 19
    ]
    rows = list(listed(Message.objects.filter(pk__in=ids)).newest_first())
    _with_services(rows, found)
    shown = Page(rows=rows, is_first="first" in request.GET)
    return live.panel(request, "messages/_rows.html", _listing_context(request, found, shown))


def _with_services(rows: list[Message], found: Found) -> None:
    """The names from what was read already: a join would read every service's configuration for each row."""
    by_number = {service.pk: service for service in found.services.values()}
    for row in rows:
        row.service = by_number[row.service_id]


def _listing_context(request: HttpRequest, found: Found, shown: Page) -> dict[str, Any]:
    filters = filters_of(request.GET)
    counts = found.counts
    first = shown.rows[0].pk if shown.rows else 0
    if request.GET.get("first", "").isdecimal():
        first = int(request.GET["first"][:18])
    state = {**filters, "rows": "-".join(str(row.pk) for row in shown.rows)}
    if shown.is_first:
        state["first"] = str(first)
    new = found.count_above(first, NEW_LIMIT) if shown.is_first and first else 0
    return {
        "rows": shown.rows,
        "page": shown,
        "tabs": _tabs(filters, counts),
        "new": new,
        "new_url": f"?{urlencode(filters)}",
        "panel_url": f"{reverse('_messages')}?{urlencode(state)}",
        "filters": urlencode(filters),
        "older_url": f"?{urlencode({**filters, 'cursor': shown.older})}",
        "newer_url": f"?{urlencode({**filters, 'cursor': shown.newer})}",
    }


def _tabs(filters: dict[str, str], counts: dict[str, int]) -> list[dict[str, Any]]:
    others = {name: value for name, value in filters.items() if name != "status"}
    current = filters.get("status", "")
    return [
        {
            "label": status.capitalize() or "All",
            "count": counts.get(status),
            "url": f"?{urlencode({**others, **({'status': status} if status else {})})}",
            "is_current": status == current,
        }
        for status in ("", *Status.values)
    ]


def _named_in(text: str) -> str | None:
    """Where a public id typed into the search leads."""
    text = text.lower()
    if message := Message.objects.by_public_id(text):
        return resolve_url("message", message.public_id)
    if attempt := Attempt.objects.select_related("message").by_public_id(text):
        if attempt.message is None:
            return resolve_url("lab-result", attempt.public_id)
        return f"{resolve_url('message', attempt.message.public_id)}#attempt-{attempt.number}"
    if group := Failure.objects.by_public_id(text):
        return resolve_url("failure", group.public_id)
    if operation := Operation.objects.by_public_id(text):
        return resolve_url("operation", operation.public_id)
    return None


def _know_service(search: Search, found: Found) -> None:
    name = search.values.get("service")
    if name and name not in found.services:
        near = get_close_matches(name, found.services, 1)
        hint = f": the nearest one is {near[0]}" if near else ""
        search.problems.append(f"There is no service named “{name[:80]}”{hint}")


# ---- one by hand --------------------------------------------------------------------------------------------------
@operator
@require_http_methods(["GET", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        return once(request, lambda: _send(request))
    return _send_form(request, SendForm(initial=starting_point(request)))


def _send(request: HttpRequest) -> HttpResponse:
    form = SendForm(request.POST)
    data = form.message_in()
    draft = form.draft(data) if data else None
    if draft is None:
        return _send_form(request, form, status=422)
    with transaction.atomic():
        message = Message.objects.accept([draft])[0]
        facts = {"service": draft.service.name, "method": draft.method, "path": draft.path}
        AuditEntry.objects.record(actor(request), "message.sent", message.public_id, after=facts)
    toasts.success(request, f"Queued for {draft.service.name}.")
    return see_other("message", message.public_id)


def _send_form(request: HttpRequest, form: SendForm, status: int = 200) -> HttpResponse:
    key = request.POST.get("form_key") or fresh_key()
    return render(request, "messages/new.html", {"form": form, "form_key": key}, status=status)


def starting_point(request: HttpRequest) -> dict[str, Any]:
    """What a form begins with: an endpoint, a message, a call from the lab, or only a service."""
    query = request.GET
    if message := Message.objects.select_related("service", "content").by_public_id(query.get("message", "")):
        return from_draft(message)
    if attempt := Attempt.objects.select_related("service", "endpoint").by_public_id(query.get("attempt", "")):
        return from_attempt(attempt)
    service, _, name = query.get("endpoint", "").rpartition("/")
    service = service or query.get("service", "")
    endpoint = Endpoint.objects.filter(service__name=service, name=name).select_related("service").first()
    if endpoint:
        return from_endpoint(endpoint)
    return {"service": service, "path": query.get("path", ""), "method": query.get("method", "POST")}


# ---- one message --------------------------------------------------------------------------------------------------
@viewer
@require_GET
def detail(request: HttpRequest, public_id: str) -> HttpResponse:
    message = _message_or_404(public_id)
    content = message.content
    context = {
        **_detail_context(request, message),
        "content": content,
        "content_headers": redacted_headers(content.headers.items(), message.service.secret_values),
        "query_text": as_lines(content.query, "="),
        "curl": _curl(message),
    }
    return render(request, "messages/detail.html", context)


@viewer
@require_GET
def detail_panel(request: HttpRequest, public_id: str) -> HttpResponse:
    """What moves on a message's page; 286 tells htmx that nothing more will."""
    message = _message_or_404(public_id)
    response = live.panel(request, "messages/_progress.html", _detail_context(request, message))
    if message.is_finished and response.status_code == 200:
        response.status_code = 286
    return response


def chosen_view(request: HttpRequest) -> str:
    """How bodies are to be shown, from the address."""
    view = request.GET.get("view", "")
    return view if view in VIEWS else VIEWS[0]


def _message_or_404(public_id: str) -> Message:
    message = Message.objects.select_related(
        "service", "service__runtime", "endpoint", "content", "replay_of"
    ).by_public_id(public_id)
    if message is None:
        raise NotThere(f"There is no message {public_id[:50]}. {retention.why_gone()}")
    return message


def _detail_context(request: HttpRequest, message: Message) -> dict[str, Any]:
    now = timezone.now()
    view, window = chosen_view(request), _window(message, request.GET.get("before", ""))
    ahead, behind, head = _neighbours(message)
    acts = AuditEntry.objects.filter(target=message.public_id, action__in=ACTS).order_by("-pk")[:ACTS_SHOWN]
    newest = window.attempts[0] if window.attempts and not window.has_later else None
    state = {name: request.GET[name] for name in ("view", "before") if name in request.GET}
    return {
        "message": message,
        "content_body": bytes(message.content.body),
        "download_url": reverse("message-body", args=[message.public_id]),
        "view": view,
        "waiting": waiting.waiting_for(message, now),
        "is_scheduled": message.next_attempt_at is not None and message.next_attempt_at > now,
        "planned": planned(message, newest, now),
        "next_step": next_step(message),
        "retry_impact": retry_impact(message, now),
        "cancel_impact": cancel_impact(message, behind is not None),
        "timeline": timeline(message, window, acts, _service_events(message, now)),
        "window": window,
        "newest": newest,
        "earlier": window.attempts[-1].number if window.has_earlier else None,
        "attempt_body_shown": ATTEMPT_BODY_SHOWN,
        "replays": list(message.replays.newest_first()[:REPLAYS_SHOWN]),
        "ahead": ahead,
        "behind": behind,
        "head": head,
        "panel_url": f"{reverse('_message', args=[message.public_id])}{'?' if state else ''}{urlencode(state)}",
    }


def _window(message: Message, before: str) -> Window:
    """The newest calls, or those before one's number."""
    attempts = message.attempt_rows.order_by("-number", "-pk")
    has_later = before.isdecimal() and len(before) < 10
    if has_later:
        attempts = attempts.filter(number__lt=int(before))
    found = list(attempts[: ATTEMPTS_SHOWN + 1])
    return Window(found[:ATTEMPTS_SHOWN], has_earlier=len(found) > ATTEMPTS_SHOWN, has_later=has_later)


def _service_events(message: Message, now: datetime) -> QuerySet[Event]:
    """What the service went through meanwhile. Looked for among its newest events of these types alone: their times
    have no index."""
    told = Event.objects.filter(service=message.service_id, type__in=SERVICE_EVENTS)
    life = (message.created_at, message.finished_at or now)
    newest = told.order_by("-pk").values("pk")[:EVENTS_SEARCHED]
    return Event.objects.filter(pk__in=newest, at__range=life).order_by("-pk")[:EVENTS_SHOWN]


def _neighbours(message: Message) -> tuple[Message | None, Message | None, Message | None]:
    """The messages right before and after this one in its ordering key, and the first unfinished one, where that is
    ahead. An unfinished message has unfinished neighbours; those of a finished one are looked for close by."""
    if not message.ordering_key:
        return None, None, None
    same = Message.objects.filter(service=message.service_id, ordering_key=message.ordering_key)
    if message.is_finished:
        near = Message.objects.filter(service=message.service_id)
        before = near.filter(pk__lt=message.pk).order_by("-pk").values("pk")[:NEIGHBOURS_SEARCHED]
        after = near.filter(pk__gt=message.pk).order_by("pk").values("pk")[:NEIGHBOURS_SEARCHED]
        return (
            same.filter(pk__in=before).order_by("-pk").first(),
            same.filter(pk__in=after).order_by("pk").first(),
            None,
        )
    ahead = same.unfinished().filter(pk__lt=message.pk)
    found = Message.objects.filter(
        Q(pk=Subquery(ahead.order_by("pk").values("pk")[:1]))
        | Q(pk=Subquery(ahead.order_by("-pk").values("pk")[:1]))
        | Q(pk=Subquery(same.unfinished().filter(pk__gt=message.pk).order_by("pk").values("pk")[:1]))
    ).order_by("pk")
    earlier, later = [row for row in found if row.pk < message.pk], [row for row in found if row.pk > message.pk]
    return earlier[-1] if earlier else None, later[0] if later else None, earlier[0] if earlier else None


def _curl(message: Message) -> str:
    """The next call as a command, with its secrets masked; why there is none, as a comment."""
    content = message.content
    request = lab.Request(
        service=message.service,
        method=message.method,
        path=message.path,
        query=content.query,
        headers=content.headers,
        body=bytes(content.body),
        content_type=content.content_type,
    )
    try:
        shown = lab.shown(request.call(message.wire_id, timezone.now()), message.service)
    except ValueError as error:
        return f"# The request cannot be built: {error}"
    return curl(shown.method, shown.url, shown.headers, shown.body)


# ---- actions ------------------------------------------------------------------------------------------------------
@operator
@require_http_methods(["GET", "POST"])
def replay(request: HttpRequest, public_id: str) -> HttpResponse:
    """POST replays as it is or with current settings; ``edited`` and GET are the form for another body."""
    message = _message_or_404(public_id)
    if request.method == "GET":
        return _replay_form(request, message, ReplayForm(initial=_as_it_was(message)))
    return once(request, lambda: _replay(request, message))


def _replay(request: HttpRequest, message: Message) -> HttpResponse:
    if "edited" in request.POST:
        return _edited_replay(request, message)
    data = ReplayIn(mode="current" if request.POST.get("mode") == "current" else "as_is")
    try:
        return _replayed(request, *control.replay(message, data, actor=actor(request)))
    except (Conflict, Invalid) as refusal:
        return _not_replayed(request, message, refusal)


def _edited_replay(request: HttpRequest, message: Message) -> HttpResponse:
    """First the difference, then, once it is confirmed, the replay."""
    form = ReplayForm(request.POST)
    data = form.replay_in(message)
    if data is None or "back" in request.POST:
        return _replay_form(request, message, form, status=200 if data else 422)
    try:
        if "confirmed" not in request.POST:
            return _review(request, message, form, message.as_replay(**intake.edits(message, data, form.edited_body)))
        made, is_new = control.replay(message, data, actor=actor(request), body=form.edited_body)
        return _replayed(request, made, is_new)
    except Conflict as refusal:
        form.add_error(None, f"Not replayed: {refusal}.")  # not a redirect: the form may be sent again later
    except Invalid as error:
        for location, words in error.errors:
            form.add_error(location[0] if location[0] in form.fields else None, words)
    except TooLarge as error:
        form.add_error("body", str(error))
    return _replay_form(request, message, form, status=422)


def _review(request: HttpRequest, message: Message, form: ReplayForm, draft: Draft) -> HttpResponse:
    """What the replay will differ in, and the one press that sends it."""
    context = {
        "message": message,
        "parts": edited_parts(message, draft),
        "kept_id": draft.webhook_id,
        "sent": [(name, form.data[name]) for name in ("endpoint", "headers", "body") if name in form.data],
        "form_key": request.POST.get("form_key") or fresh_key(),
    }
    return render(request, "messages/replay_review.html", context)


def _replayed(request: HttpRequest, made: Message, is_new: bool) -> HttpResponse:
    toasts.success(request, "Replayed: this is the new message." if is_new else "A replay was under way already.")
    return see_other("message", made.public_id)


def _not_replayed(request: HttpRequest, message: Message, refusal: Exception) -> HttpResponse:
    toasts.error(request, f"Not replayed: {refusal}.")
    return see_other("message", message.public_id)


def _as_it_was(message: Message) -> dict[str, Any]:
    return {"headers": as_lines(message.content.headers, ": "), "body": editable_body(message) or ""}


def _replay_form(request: HttpRequest, message: Message, form: ReplayForm, status: int = 200) -> HttpResponse:
    body = editable_body(message)
    if body is None:
        form.fields.pop("body")
    context = {
        "message": message,
        "form": form,
        "form_key": request.POST.get("form_key") or fresh_key(),
        "endpoints": endpoints_of(message.service.name),
        "is_editable": body is not None,
    }
    return render(request, "messages/replay.html", context, status=status)


@operator
@require_POST
def cancel(request: HttpRequest, public_id: str) -> HttpResponse:
    return _act(request, public_id, control.cancel, "Cancelled.", "Not cancelled")


@operator
@require_POST
def retry_now(request: HttpRequest, public_id: str) -> HttpResponse:
    return _act(
        request, public_id, control.retry_now, "It goes out as soon as the service may be called.", "Not retried"
    )


def _act(request: HttpRequest, public_id: str, verb: Callable[..., None], done: str, refused: str) -> HttpResponse:
    message = _message_or_404(public_id)
    try:
        verb(message, actor=actor(request))
    except Conflict as conflict:
        toasts.error(request, f"{refused}: {conflict}.")
    else:
        toasts.success(request, done)
    return see_other("message", message.public_id)


# ---- downloads ----------------------------------------------------------------------------------------------------
@viewer
@require_GET
def body(request: HttpRequest, public_id: str) -> HttpResponse:
    message = _message_or_404(public_id)
    return _download(bytes(message.content.body), f"{message.public_id}-body")


@viewer
@require_GET
def attempt_body(request: HttpRequest, public_id: str) -> HttpResponse:
    attempt = Attempt.objects.by_public_id(public_id)
    if attempt is None:
        raise NotThere(f"There is no call {public_id[:50]}. {retention.why_gone()}")
    if request.GET.get("part") == "request":
        return _download(bytes(attempt.request_body or b""), f"{attempt.public_id}-request")
    return _download(bytes(attempt.response_body), f"{attempt.public_id}-response")


def _download(content: bytes, name: str) -> HttpResponse:
    """An attachment that no browser will render, whatever a sender or a service put into it."""
    try:
        content.decode()
        kind, ending = "text/plain; charset=utf-8", "txt"
    except UnicodeDecodeError:
        kind, ending = "application/octet-stream", "bin"
    return HttpResponse(
        content,
        content_type=kind,
        headers={
            "Content-Disposition": f'attachment; filename="{name}.{ending}"',
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        },
    )
