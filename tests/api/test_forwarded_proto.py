"""X-Forwarded-Proto counts from trusted proxies only: before, every client could say that it came by HTTPS."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.support.installation import Installation

PROXY, CLIENT = "127.0.0.2", "127.0.0.1"  # where the requests come from


@pytest.mark.any_database
@pytest.mark.slow
def test_only_a_trusted_proxy_says_that_a_client_came_by_https(
    start_installation: Callable[..., Installation],
) -> None:
    installation = start_installation("--no-workers", SWITCHBOARD_HTTPS="1", SWITCHBOARD_TRUSTED_PROXIES=PROXY)
    token = installation.token("viewer")

    def get(path: str, come_from: str, scheme: str | None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} | ({"X-Forwarded-Proto": scheme} if scheme else {})
        with httpx.Client(transport=httpx.HTTPTransport(local_address=come_from), trust_env=False) as client:
            if path != "/api/v1/events":
                return client.get(installation.url + path, headers=headers)
            with client.stream("GET", installation.url + path, headers=headers) as response:  # it does not end
                return response

    # A page by Django, a call of the API, and a route on the event loop.
    for path in ("/login/", "/api/v1/services", "/api/v1/events"):
        by_https = get(path, PROXY, "https")
        assert by_https.status_code == 200, path
        assert by_https.headers["Strict-Transport-Security"], path
        for come_from, scheme in ((CLIENT, "https"), (CLIENT, None), (PROXY, "http"), (PROXY, None)):
            redirect = get(path, come_from, scheme)
            assert redirect.status_code == 301, (path, come_from, scheme)
            assert redirect.headers["Location"] == installation.url.replace("http:", "https:") + path
    assert get("/healthz", CLIENT, None).status_code == 200, "load balancers ask without HTTPS"
