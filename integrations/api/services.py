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
from integrations.api.pagination import LIMIT, Cursor, Limit, list_json, page
from integrations.api.problems import Problem
from integrations.api.responses import BreakerOut, EndpointOut, EndpointPage, RotatedOut, ServiceOut, ServicePage
from integrations.models import Endpoint, Health, Message, Role, Runtime, Service, Source, Tally, backlog
from integrations.operators import traffic
from integrations.policies import breaker as breaker_policy
from integrations.registration import deletion, endpoints, registry
from integrations.schemas.actions import BreakerIn, PauseIn, ResumeIn, RotateIn
from integrations.schemas.service import EndpointIn, ServiceIn

HEALTHY_FOR = timedelta(hours=1)  # a success longer ago says nothing about now

router = Router(tags=["Services"])


# ---- services -----------------------------------------------------------------------------------------------------
@router.get("/services", auth=viewer, response=ServicePage)
def list_services(request: HttpRequest, limit: Limit = LIMIT, cursor: Cursor = None) -> HttpResponse:
    """All registrations, newest first."""
    rows, next_cursor = page(Service.objects.all(), "services", limit, cursor)
    return json_response(list_json(services_json(rows), next_cursor))


@router.post("/services", auth=operator, response={201: ServiceOut})
def register_service(request: HttpRequest, data: ServiceIn) -> HttpResponse:
    """Registers a service."""
    _check_networks(request, data, present=[])
    service = registry.register(
        data, actor=caller(request).actor, source=Source.API, may_allow_private=_is_admin(request)
    )
    return json_response(services_json([service])[0], 201, location=api_path("services", service.name))


@router.get("/services/{name}", auth=viewer, response=ServiceOut)
def get_service(request: HttpRequest, name: str) -> HttpResponse:
    """One registration; secrets show only that they are set."""
    return json_response(services_json([find_service(name)])[0])


@router.patch("/services/{name}", auth=operator, response=ServiceOut)
def change_service(request: HttpRequest, name: str, data: Annotated[dict[str, Any], Body()]) -> HttpResponse:
    """Changes what is given; objects such as `retry` merge with what is set. A new host clears the secrets."""
    with transaction.atomic():
        service = find_service(name, locked=True)  # what it merges with must not change before it is saved
        wanted = ServiceIn.model_validate(_merged(service, data))
        if "network" in data:
            _check_networks(request, wanted, present=service.network.get("allow_private", []))
        registry.change(
            service, wanted, _given(data), actor=caller(request).actor, may_allow_private=_is_admin(request)
        )
    return json_response(services_json([service])[0])


@router.delete("/services/{name}", auth=admin, response={204: None})
def delete_service(
    request: HttpRequest,
    name: str,
    force: Annotated[bool, Query(description="Cancel what is unfinished.")] = False,
) -> HttpResponse:
    """Removes a service and its history; with unfinished messages only where `force` says so."""
    service = find_service(name)
    actor = caller(request).actor
    deletion.delete(service, force=force, actor=actor)
    return no_content()


@router.post("/services/{name}/pause", auth=operator, response=ServiceOut)
def pause_service(request: HttpRequest, name: str, data: PauseIn) -> HttpResponse:
    """Messages are accepted and held from now on, never dropped."""
    service = find_service(name)
    traffic.pause(service, data, actor=caller(request).actor)
    return json_response(services_json([service])[0])


@router.post("/services/{name}/resume", auth=operator, response=ServiceOut)
def resume_service(request: HttpRequest, name: str, data: ResumeIn | None = None) -> HttpResponse:
    """Ends a pause and says what becomes of the messages that waited; an empty body releases all."""
    service = find_service(name)
    traffic.resume(service, data or ResumeIn(), actor=caller(request).actor)
    return json_response(services_json([service])[0])


@router.post("/services/{name}/signing/rotate", auth=operator, response=RotatedOut)
def rotate_signing(request: HttpRequest, name: str, data: RotateIn | None = None) -> HttpResponse:
    """Makes new signing keys and shows the secret, this once. The keys so far sign too until the overlap has passed.

    It does not turn signing on: a receiver may have the secret before the first signature.
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
    services = Service.objects.select_for_update() if locked else Service.objects.all()
    service = services.filter(name=name).first()
    if service is None:
        raise Http404(f"There is no service named {name}.")
    return service


def _health(breaker_state: str, checked: str, has_answered: bool) -> str:
    if breaker_state == "open" or checked == "down":
        return "down"
    return "up" if checked == "up" or has_answered else "unknown"


def services_json(services: Sequence[Service]) -> list[dict[str, Any]]:
    """Services as they are read back: configuration and present state, in five queries for any number of them."""
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
                **registry.configuration(service),
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


def _waiting(ids: Sequence[int], now: datetime) -> dict[int, tuple[int, datetime | None]]:
    """For each service, how many messages are unfinished and since when the oldest is due."""
    due = backlog.earliest(now)
    rows = Service.objects.filter(pk__in=ids).order_by().annotate(count=backlog.unfinished(), **due)
    return {
        pk: (count, min((moment for moment in moments if moment), default=None))
        for pk, count, *moments in rows.values_list("pk", "count", *due)
    }


def _merged(service: Service, data: dict[str, Any]) -> dict[str, Any]:
    """The registration as it would be: what is given over what is set, one level deep."""
    present = registry.configuration(service)
    # Without what is only read back: the marks that stand for secrets, and the public key.
    present["auth"], present["signing"] = dict(service.auth), dict(service.signing)
    if service.url_env:
        present["base_url"] = None
    if data.get("base_url") and "url_env" not in data:
        present["url_env"] = None
    merged = {**present, **data}
    for name in (*registry.POLICY_FIELDS, "auth"):
        given = data.get(name)
        another_kind = (
            name == "auth"
            and isinstance(given, dict)
            and given.get("type", present[name].get("type")) != (present[name].get("type"))
        )
        if isinstance(given, dict) and not another_kind:
            merged[name] = _over(present[name], given)
    return merged


def _over(present: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Objects inside merge too, so that {"window": {"size": 10}} keeps the window's type."""
    merged = {**present, **given}
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(present.get(name), dict):
            merged[name] = {**present[name], **value}
    return merged


def _given(data: dict[str, Any]) -> set[str]:
    return set(data) | ({"url_env"} if "base_url" in data else set())


def _is_admin(request: HttpRequest) -> bool:
    return caller(request).role.covers(Role.ADMIN)


def _check_networks(request: HttpRequest, data: ServiceIn, present: list[str]) -> None:
    if data.network.allow_private != present and not _is_admin(request):
        raise Problem(403, f"Only an admin may allow private networks; your role is {caller(request).role}.")


# ---- endpoints ----------------------------------------------------------------------------------------------------
@router.get("/services/{name}/endpoints", auth=viewer, response=EndpointPage)
def list_endpoints(request: HttpRequest, name: str, limit: Limit = LIMIT, cursor: Cursor = None) -> HttpResponse:
    """The named operations of a service, newest first."""
    service = find_service(name)
    rows, next_cursor = page(Endpoint.objects.filter(service=service), f"endpoints.{service.pk}", limit, cursor)
    return json_response(list_json([endpoint_json(row) for row in rows], next_cursor))


@router.post("/services/{name}/endpoints", auth=operator, response={201: EndpointOut})
def register_endpoint(request: HttpRequest, name: str, data: EndpointIn) -> HttpResponse:
    """Names an operation of a service."""
    endpoint = endpoints.save(find_service(name), data, actor=caller(request).actor)
    return json_response(endpoint_json(endpoint), 201, location=api_path("services", name, "endpoints", endpoint.name))


@router.get("/services/{name}/endpoints/{endpoint}", auth=viewer, response=EndpointOut)
def get_endpoint(request: HttpRequest, name: str, endpoint: str) -> HttpResponse:
    """One named operation."""
    return json_response(endpoint_json(_find_endpoint(name, endpoint)))


@router.patch("/services/{name}/endpoints/{endpoint}", auth=operator, response=EndpointOut)
def change_endpoint(
    request: HttpRequest, name: str, endpoint: str, data: Annotated[dict[str, Any], Body()]
) -> HttpResponse:
    """Changes what is given; `query` and `headers` are replaced as a whole."""
    with transaction.atomic():
        service = find_service(name, locked=True)
        found = _find_endpoint(name, endpoint)
        wanted = EndpointIn.model_validate({**endpoints.configuration(found), **data})
        endpoints.save(service, wanted, actor=caller(request).actor, endpoint=found)
    return json_response(endpoint_json(found))


@router.delete("/services/{name}/endpoints/{endpoint}", auth=operator, response={204: None})
def delete_endpoint(request: HttpRequest, name: str, endpoint: str) -> HttpResponse:
    """Forgets a named operation; messages accepted for it keep what they were accepted with."""
    endpoints.delete(_find_endpoint(name, endpoint), actor=caller(request).actor)
    return no_content()


def _find_endpoint(name: str, endpoint: str) -> Endpoint:
    found = Endpoint.objects.select_related("service").filter(service__name=name, name=endpoint).first()
    if found is None:
        raise Http404(f"There is no endpoint {endpoint} of a service {name}.")
    return found


def endpoint_json(endpoint: Endpoint) -> dict[str, Any]:
    return {
        **endpoints.configuration(endpoint),
        "created_at": endpoint.created_at,
        "updated_at": endpoint.updated_at,
    }


# ---- breaker ------------------------------------------------------------------------------------------------------
@router.get("/services/{name}/breaker", auth=viewer, response=BreakerOut, tags=["Breakers"])
def get_breaker(request: HttpRequest, name: str) -> HttpResponse:
    """The breaker as all workers see it."""
    service = find_service(name)
    return json_response(breaker_json(service, Runtime.objects.get(service=service)))


@router.post("/services/{name}/breaker", auth=operator, response=BreakerOut, tags=["Breakers"])
def steer_breaker(request: HttpRequest, name: str, data: BreakerIn) -> HttpResponse:
    """Opens, closes, half-opens, resets, disables or observes; `auto` ends a manual mode."""
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
