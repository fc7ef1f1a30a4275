"""Headers that tell browsers and caches what they may do with a response, and what an error page leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client, RequestFactory
from django.urls import get_resolver
from django.views.debug import get_exception_reporter_filter

from dashboard.asgi import application
from integrations.models import Message, Service
from tests.support.serving import Served

pytestmark = pytest.mark.django_db

CANARY = "canary-7f3a91"


def pages_without_arguments() -> list[str]:
    paths = [str(pattern.pattern) for pattern in get_resolver().url_patterns]
    return [f"/{path}" for path in paths if "<" not in path and not path.startswith("api/")]


def test_pages_behind_the_login_stayed_in_caches(
    admin: Client, billing: Service, queue: Callable[..., Message]
) -> None:
    message = queue()
    pages = [*pages_without_arguments(), "/services/billing/", f"/messages/{message.public_id}/", "/nothing/here/"]
    assert {"/", "/settings/", "/audit/", "/login/"} < set(pages)
    for page in pages:
        answer = admin.get(page)
        assert answer.status_code < 500
        assert "no-store" in answer["Cache-Control"], page


def test_a_page_may_use_no_device_and_no_other_site_may_show_it(admin: Client) -> None:
    for page in ("/", "/login/", "/static/console.css", "/healthz", "/api/v1/services", "/api/v1/docs"):
        answer = admin.get(page)
        assert answer["Cross-Origin-Resource-Policy"] == "same-origin", page
        assert "camera=()" in answer["Permissions-Policy"], page
        assert "clipboard" not in answer["Permissions-Policy"], "the copy buttons write to it"


def test_static_files_are_still_cached(client: Client) -> None:
    assert client.get("/static/console.css")["Cache-Control"] == "max-age=60, public"
    assert client.get("/static/nothing.css")["Cache-Control"] == "no-store"


def test_responses_from_the_loop_have_the_same_headers(client: Client) -> None:
    served = Served(application)
    try:
        requests = [
            {"method": method, "url": url} for method, url in (("GET", "/healthz"), ("POST", "/api/v1/messages"))
        ]
        for answer in served.send(*requests):
            for name in ("Cross-Origin-Resource-Policy", "Permissions-Policy", "Content-Security-Policy"):
                assert answer.headers.get_list(name) == [client.get("/healthz")[name]]
            assert len(answer.headers.get_list("Cache-Control")) == 1
    finally:
        served.close()


def test_an_error_page_showed_the_passwords_in_addresses(rf: RequestFactory, settings: Any) -> None:
    settings.DEBUG = True
    settings.DATABASE_URL = f"postgres://switchboard:{CANARY}@db.internal/switchboard"
    settings.REDIS_URL = f"redis://:{CANARY}@redis.internal/0"
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": settings.REDIS_URL}}
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "redis": settings.REDIS_URL}
    request = rf.get("/", SWITCHBOARD_DATABASE_URL=settings.DATABASE_URL)
    reporter_filter: Any = get_exception_reporter_filter(request)
    shown = {**reporter_filter.get_safe_settings(), **reporter_filter.get_safe_request_meta(request)}
    assert shown["ALLOWED_HOSTS"] == settings.ALLOWED_HOSTS
    assert CANARY not in str(shown)
