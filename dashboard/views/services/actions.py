"""Pause, resume or delete a service."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_POST

from dashboard.access import actor, admin, operator
from dashboard.forms.actions import DeleteForm, PauseForm, ResumeForm
from dashboard.presenters.service_stats import count_messages, count_unfinished
from dashboard.responses import form_page, posted, say_done, see_other
from integrations.errors import Conflict
from integrations.models import Message, Service
from integrations.operators import bulk_operations, traffic
from integrations.registration import deletion


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
            say_done(request, "Paused. New messages will queue.", "service-resume", name)
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
            messages.success(request, "Resumed." + (f" {held:,} messages stay held." if held else ""))
            return see_other("service", service.name)
    return form_page(request, "services/resume.html", {"form": form, "service": service}, is_refused=form.is_bound)


@operator
@require_POST
def cancel_waiting(request: HttpRequest, name: str) -> HttpResponse:
    """Cancel all waiting messages of a service, by an operation."""
    service = get_object_or_404(Service, name=name)
    operation = bulk_operations.cancel_waiting(service, by=actor(request))
    messages.success(request, f"Cancelling the waiting messages of {name}.")
    return see_other("operation", operation.public_id)


@admin
def delete(request: HttpRequest, name: str) -> HttpResponse:
    service = get_object_or_404(Service, name=name)
    unfinished = count_unfinished(Message.objects.for_service(service))
    form = DeleteForm(posted(request), service.name)
    if form.is_bound and form.is_valid():
        if unfinished and not form.cleaned_data["force"]:
            form.add_error(
                "force", "The service has unfinished messages. Confirm their cancellation, or wait until they finish."
            )
        else:
            try:
                operation = deletion.delete(service, force=form.cleaned_data["force"], actor=actor(request))
            except Conflict as refusal:
                form.add_error(None, str(refusal))
            else:
                if operation is not None:
                    messages.success(request, f"Deleting {name}. It accepts no message and makes no call from now on.")
                    return see_other("operation", operation.public_id)
                messages.success(request, f"{name} and its history deleted.")
                return see_other("services")
    context = {
        "form": form,
        "service": service,
        "unfinished": unfinished,
        "message_count": count_messages(service),
        "endpoint_count": service.endpoints.count(),
        "secrets": sorted({name.partition(".")[0] for name in service.secrets}),
    }
    return form_page(request, "services/delete.html", context, is_refused=form.is_bound)
