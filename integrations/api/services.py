"""Services, their endpoints and their breakers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from django.db import transaction
from django.db.models import F
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Body, Query, Router

from integrations.api.auth import admin, caller, operator, viewer
from integrations.api.json_io import api_path, json_response, no_content
from integrations.api.operations import operation_json
from integrations.api.pagination import LIMIT, Cursor, Limit, list_json, page
from integrations.api.problems import Problem
from integrations.api.responses import (
    BreakerOut,
    EndpointOut,
    EndpointPage,
    OperationOut,
    RotatedOut,
    ServiceOut,
    ServicePage,
)
from integrations.models import Endpoint, Health, Message, Role, Runtime, Service, Source, Tally, backlog
from integrations.operators import traffic
from integrations.policies import breaker as breaker_policy
from integrations.registration import deletion, endpoints, registry
from integrations.schemas.actions import BreakerIn, PauseIn, ResumeIn, RotateIn
from integrations.schemas.service import EndpointIn, NetworkRules, ServiceIn

HEALTHY_FOR = timedelta(hours=1)  # an older success is no sign of present health

router = Router(tags=["Services"])


# ---- services -----------------------------------------------------------------------------------------------------
@router.get("/services", auth=viewer, response=ServicePage)
def list_services(request: HttpRequest, limit: Limit = LIMIT, cursor: Cursor = None) -> HttpResponse:
    """List all services, newest first."""
    rows, next_cursor = page(Service.objects.all(), "services", limit, cursor)
    return json_response(list_json(services_json(rows), next_cursor))


@router.post("/services", auth=operator, response={201: ServiceOut})
def register_service(request: HttpRequest, data: ServiceIn) -> HttpResponse:
    """Register a service."""
    _check_networks(request, data, present=NetworkRules().model_dump(mode="json"))
    service = registry.register(
        data, actor=caller(request).actor, source=Source.API, may_allow_private=_is_admin(request)
    )
    return json_response(services_json([service])[0], 201, location=api_path("services", service.name))


@router.get("/services/{name}", auth=viewer, response=ServiceOut)
def get_service(request: HttpRequest, name: str) -> HttpResponse:
    """Return one service. Secrets appear only as `set` and `set_at`."""
    return json_response(services_json([find_service(name)])[0])


@router.patch("/services/{name}", auth=operator, response=ServiceOut)
def change_service(request: HttpRequest, name: str, data: Annotated[dict[str, Any], Body()]) -> HttpResponse:
    """Change the given fields; objects such as `retry` are merged field by field. A new host clears the secrets."""
    with transaction.atomic():
        service = find_service(name, locked=True)  # no other change between merging and saving
        wanted = ServiceIn.model_validate(_merged(service, data))
        if "network" in data:
            _check_networks(request, wanted, present=registry.network_rules(service))
        registry.change(
            service, wanted, _changed_fields(data), actor=caller(request).actor, may_allow_private=_is_admin(request)
        )
    return json_response(services_json([service])[0])


@router.delete("/services/{name}", auth=admin, response={202: OperationOut, 204: None})
def delete_service(
    request: HttpRequest,
    name: str,
    force: Annotated[bool, Query(description="Cancel unfinished messages first.")] = False,
) -> HttpResponse:
    """Delete a service with its history. Fails if it has unfinished messages, unless `force` is true.

    204 if it is gone. 202 with an operation if there is much to delete or a call is in flight; from then on the
    service accepts no message and makes no call.
    """
    operation = deletion.delete(find_service(name), force=force, actor=caller(request).actor)
    if operation is None:
        return no_content()
    return json_response(operation_json(operation), 202, location=api_path("operations", operation.public_id))


@router.post("/services/{name}/pause", auth=operator, response=ServiceOut)
def pause_service(request: HttpRequest, name: str, data: PauseIn) -> HttpResponse:
    """Stop calls to a service. Its messages are accepted and wait."""
    service = find_service(name)
    traffic.pause(service, data, actor=caller(request).actor)
    return json_response(services_json([service])[0])


@router.post("/services/{name}/resume", auth=operator, response=ServiceOut)
def resume_service(request: HttpRequest, name: str, data: ResumeIn | None = None) -> HttpResponse:
    """End a pause and release or hold the waiting messages. Without a body, all are released."""
    service = find_service(name)
    traffic.resume(service, data or ResumeIn(), actor=caller(request).actor)
    return json_response(services_json([service])[0])


@router.post("/services/{name}/signing/rotate", auth=operator, response=RotatedOut)
def rotate_signing(request: HttpRequest, name: str, data: RotateIn | None = None) -> HttpResponse:
    """Create new signing keys and return the secret, only here. The previous keys also sign during the overlap.

    Signing stays off if it is off, so that the receiver can get the secret before the first signed call.
    """
    overlap = timedelta(seconds=(data or RotateIn()).overlap)
    newest, *earlier = registry.rotate_signing(find_service(name), overlap, actor=caller(request).actor)
    return json_response(
        {
            "secret": newest.secret,
            "public_key": newest.public_key,
            "previous_valid_until": earlier[0].valid_until if earlier else None,
        }
    )


def find_service(name: str, *, locked: bool = False) -> Service:
    # Without the key, which each accepted message locks: messages are accepted while an operator's change is under way.
    services = Service.objects.select_for_update(no_key=True) if locked else Service.objects.all()
    service = services.filter(name=name).first()
    if service is None:
        raise Http404(f"No service is named {name}.")
    return service


def services_json(services: Sequence[Service]) -> list[dict[str, Any]]:
    """Return services with their settings and present state, in five queries for any number of services."""
    now = timezone.now()
    ids = [service.pk for service in services]
    runtimes = Runtime.objects.in_bulk(ids)
    waiting = _waiting(ids, now)
    healthy = set(
        Tally.objects.filter(service__in=ids, start__gt=now - HEALTHY_FOR, calls__gt=F("failures")).values_list(
            "service_id", flat=True
        )
    )
    checked = dict(Health.objects.filter(pk__in=ids, service__status="active").values_list("pk", "state"))
    documents = []
    for service in services:
        state = runtimes[service.pk].state if service.pk in runtimes else "closed"
        unfinished, oldest_due = waiting.get(service.pk, (0, None))
        documents.append(
            {
                **registry.masked(registry.configuration(service)),
                "status": service.status,
                "paused_reason": service.paused_reason or None,
                "paused_until": service.paused_until,
                "health": _health(state, checked.get(service.pk, "unknown"), service.pk in healthy),
                "breaker_state": state,
                "backlog": unfinished,
                "oldest_due_age": round((now - oldest_due).total_seconds(), 3) if oldest_due else None,
                "source": service.source,
                "created_at": service.created_at,
                "updated_at": service.updated_at,
            }
        )
    return documents


def _health(breaker_state: str, checked: str, has_succeeded: bool) -> str:
    if breaker_state == "open" or checked == "down":
        return "down"
    return "up" if checked == "up" or has_succeeded else "unknown"


def _waiting(ids: Sequence[int], now: datetime) -> dict[int, tuple[int, datetime | None]]:
    """Return the unfinished messages of each service, and since when the oldest is due."""
    due = backlog.earliest(now)
    rows = Service.objects.filter(pk__in=ids).order_by().annotate(count=backlog.unfinished(), **due)
    return {
        pk: (count, min((moment for moment in moments if moment), default=None))
        for pk, count, *moments in rows.values_list("pk", "count", *due)
    }


def _merged(service: Service, data: dict[str, Any]) -> dict[str, Any]:
    """Merge the patch into the current registration."""
    present = registry.configuration(service)
    # Drop read-only values: the marks that stand for secrets, the public key, and who allowed the networks.
    present["auth"], present["signing"] = dict(service.auth), dict(service.signing)
    present["network"] = registry.network_rules(service)
    if service.url_env:
        present["base_url"] = None
    if data.get("base_url") and "url_env" not in data:
        present["url_env"] = None
    merged = {**present, **data}
    for name in (*registry.POLICY_FIELDS, "auth"):
        given = data.get(name)
        is_new_type = (
            name == "auth"
            and isinstance(given, dict)
            and given.get("type", present[name].get("type")) != (present[name].get("type"))
        )
        if isinstance(given, dict) and not is_new_type:
            merged[name] = _merged_policy(present[name], given)
    return merged


def _merged_policy(present: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Merge inner objects too, so that {"window": {"size": 10}} keeps the window's type."""
    merged = {**present, **given}
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(present.get(name), dict):
            merged[name] = {**present[name], **value}
    return merged


def _changed_fields(data: dict[str, Any]) -> set[str]:
    return set(data) | ({"url_env"} if "base_url" in data else set())


def _is_admin(request: HttpRequest) -> bool:
    return caller(request).role.covers(Role.ADMIN)


def _check_networks(request: HttpRequest, data: ServiceIn, present: dict[str, Any]) -> None:
    if data.network.model_dump(mode="json") != present and not _is_admin(request):
        raise Problem(403, f"Only an admin may allow private networks; your role is {caller(request).role}.")


# ---- endpoints ----------------------------------------------------------------------------------------------------
@router.get("/services/{name}/endpoints", auth=viewer, response=EndpointPage)
def list_endpoints(request: HttpRequest, name: str, limit: Limit = LIMIT, cursor: Cursor = None) -> HttpResponse:
    """List the endpoints of a service, newest first."""
    service = find_service(name)
    rows, next_cursor = page(Endpoint.objects.filter(service=service), f"endpoints.{service.pk}", limit, cursor)
    return json_response(list_json([endpoint_json(row) for row in rows], next_cursor))


@router.post("/services/{name}/endpoints", auth=operator, response={201: EndpointOut})
def register_endpoint(request: HttpRequest, name: str, data: EndpointIn) -> HttpResponse:
    """Register an endpoint of a service."""
    endpoint = endpoints.save(find_service(name), data, actor=caller(request).actor)
    return json_response(endpoint_json(endpoint), 201, location=api_path("services", name, "endpoints", endpoint.name))


@router.get("/services/{name}/endpoints/{endpoint}", auth=viewer, response=EndpointOut)
def get_endpoint(request: HttpRequest, name: str, endpoint: str) -> HttpResponse:
    """Return one endpoint."""
    return json_response(endpoint_json(_find_endpoint(name, endpoint)))


@router.patch("/services/{name}/endpoints/{endpoint}", auth=operator, response=EndpointOut)
def change_endpoint(
    request: HttpRequest, name: str, endpoint: str, data: Annotated[dict[str, Any], Body()]
) -> HttpResponse:
    """Change the given fields. `query` and `headers` are replaced as a whole."""
    with transaction.atomic():
        service = find_service(name, locked=True)
        found = _find_endpoint(name, endpoint)
        wanted = EndpointIn.model_validate({**endpoints.configuration(found), **data})
        endpoints.save(service, wanted, actor=caller(request).actor, endpoint=found)
    return json_response(endpoint_json(found))


@router.delete("/services/{name}/endpoints/{endpoint}", auth=operator, response={204: None})
def delete_endpoint(request: HttpRequest, name: str, endpoint: str) -> HttpResponse:
    """Delete an endpoint. Messages already accepted for it keep their method, path, headers and body."""
    endpoints.delete(_find_endpoint(name, endpoint), actor=caller(request).actor)
    return no_content()


def _find_endpoint(name: str, endpoint: str) -> Endpoint:
    found = Endpoint.objects.select_related("service").filter(service__name=name, name=endpoint).first()
    if found is None:
        raise Http404(f"No endpoint of {name} is named {endpoint}.")
    return found


def endpoint_json(endpoint: Endpoint) -> dict[str, Any]:
    return {
        **registry.masked(endpoints.configuration(endpoint)),
        "created_at": endpoint.created_at,
        "updated_at": endpoint.updated_at,
    }


# ---- breaker ------------------------------------------------------------------------------------------------------
@router.get("/services/{name}/breaker", auth=viewer, response=BreakerOut, tags=["Breakers"])
def get_breaker(request: HttpRequest, name: str) -> HttpResponse:
    """Return the breaker's state, which all workers share."""
    service = find_service(name)
    return json_response(breaker_json(service, Runtime.objects.get(service=service)))


@router.post("/services/{name}/breaker", auth=operator, response=BreakerOut, tags=["Breakers"])
def steer_breaker(request: HttpRequest, name: str, data: BreakerIn) -> HttpResponse:
    """Override the breaker: open, close, half-open, reset, disable or observe it; `auto` ends an override."""
    service = find_service(name)
    return json_response(breaker_json(service, traffic.override_breaker(service, data, actor=caller(request).actor)))


def breaker_json(service: Service, runtime: Runtime) -> dict[str, Any]:
    now = timezone.now()
    state, policy = runtime.breaker, service.breaker_policy
    probes = Message.objects.for_service(service).delivering().filter(probe_generation=runtime.generation).count()
    probes += runtime.leased(now).count(runtime.generation)
    lets_all_pass = breaker_policy.allowance(state, policy, probes, now) is None
    held = 0 if lets_all_pass else Message.objects.for_service(service).due(now).count()
    return {**breaker_policy.summary(state, policy, now, probes), "held": held}
