"""Endpoints for monitoring: liveness, readiness and metrics."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseErrors
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import split_domain_port, validate_host
from django.utils import timezone
from django.views.decorators.cache import never_cache
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from dashboard.access import public
from dashboard.presenters import metrics as measured
from dashboard.presenters.service_stats import oldest_due
from integrations import wakeup
from integrations.api.auth import identify
from integrations.api.problems import Problem
from integrations.models import Worker, pooler, schema, storage
from integrations.outbound.addresses import parse_networks


@public
@never_cache
def healthz(request: HttpRequest) -> HttpResponse:
    """Liveness. It reads nothing, so that a slow database never gets the process killed."""
    return JsonResponse({"status": "ok"})


@public
@never_cache
def readyz(request: HttpRequest) -> HttpResponse:
    """Readiness: 200 if the migrations are applied, the tables are those of this version, a small write succeeds and so
    does every query of this view, else 503 with the reason; with counts of the work."""
    report: dict[str, Any] = {"database": False, "migrations": False, "schema": False, "writable": False}
    try:
        report["migrations"] = _migrations_are_applied()
        report["database"] = True
        if not report["migrations"]:
            report["reason"] = f"Migrations are not applied: run {settings.PROGRAM} migrate."
        elif trouble := schema.trouble():
            report["reason"] = (
                f"The database does not have the tables of this version: {trouble}. Run {settings.PROGRAM} doctor."
            )
        else:
            report["schema"] = True
            if no_writes := storage.recent_trouble():
                report["reason"] = f"The database takes no writes: {no_writes.cause}. {no_writes.advice}."
            else:
                report["writable"] = True
                report |= _work()
                if pooler.is_deaf():
                    report["note"] = f"{wakeup.POOLED[0].upper()}{wakeup.POOLED[1:]}."
    except DatabaseErrors as error:
        report |= {"database": False, "error": type(error).__name__, "reason": "The database cannot be read."}
    report["redis"] = _redis()
    is_ready = report["database"] and report["writable"]
    return JsonResponse({"status": "ready" if is_ready else "not ready", **report}, status=200 if is_ready else 503)


@public
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """For Prometheus: from an address in SWITCHBOARD_METRICS_ALLOW, or with an API token of any role."""
    # A proxy that is not trusted hides the address of its client, and may have an address that is allowed.
    is_hidden = "HTTP_X_FORWARDED_FOR" in request.META and not settings.TRUSTED_PROXIES
    is_rebound = not _is_own_host(request.META.get("HTTP_HOST", ""))
    if is_hidden or is_rebound or not _may_read_metrics(request.META.get("REMOTE_ADDR", "")):
        try:
            identify(request)
        except Problem as problem:
            if is_rebound:
                problem = Problem(problem.status, f"{problem.detail} {FOREIGN_HOST}", headers=problem.headers)
            return problem.as_response()
    return HttpResponse(measured.text(), content_type=CONTENT_TYPE_PLAIN_0_0_4)


FOREIGN_HOST = "Without a token, ask for an address or for a name in SWITCHBOARD_ALLOWED_HOSTS."


def _is_own_host(host: str) -> bool:
    """Whether the Host header names this console. Another site's name may resolve to this machine (DNS rebinding): its
    page could read the metrics with the browser of someone here, whose address needs no token."""
    if not host:  # not a browser's request
        return True
    name, _ = split_domain_port(host)  # empty for an invalid one
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return bool(name) and validate_host(name, settings.ALLOWED_HOSTS)
    return True


def _may_read_metrics(address: str) -> bool:
    try:
        client = ip_address(address)
    except ValueError:  # a Unix socket has none
        return False
    mapped = getattr(client, "ipv4_mapped", None)
    return any((mapped or client) in network for network in parse_networks(settings.METRICS_ALLOW))


_applied = False  # migrations are never taken back under a running process: once they are applied, that is known


def _migrations_are_applied() -> bool:
    global _applied
    if _applied:
        connection.ensure_connection()
        return True
    executor = MigrationExecutor(connection)
    _applied = not executor.migration_plan(executor.loader.graph.leaf_nodes())
    return _applied


def _work() -> dict[str, Any]:
    now = timezone.now()
    oldest = oldest_due(now)
    return {
        "workers": Worker.objects.alive(now).count(),
        "backlog_age": round((now - oldest).total_seconds(), 3) if oldest else 0,
    }


def _redis() -> bool | None:
    """None where none is configured. It is a doorbell: without it, work goes on by polling."""
    if not settings.REDIS_URL:
        return None
    import redis

    try:
        redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1).ping()
    except redis.RedisError:
        return False
    return True
