"""A curl command pasted into the lab."""

from __future__ import annotations

import pytest
from django.test import Client

from dashboard.forms.curl import CurlCommand, read_curl
from dashboard.forms.prefill import from_curl
from dashboard.forms.request import LabForm
from integrations.models import Attempt, Service


@pytest.mark.parametrize(
    ("command", "method", "url", "headers", "body"),
    [
        ("curl https://a.example/x", "GET", "https://a.example/x", {}, ""),
        ("curl -I https://a.example", "HEAD", "https://a.example", {}, ""),
        ("/usr/bin/curl -sS -XDELETE https://a.example/x", "DELETE", "https://a.example/x", {}, ""),
        (
            "curl 'https://a.example/x' \\\n -H 'X-A: b' \\\r\n --data-raw '{\"a\": 1.10}' "
            "-H 'content-type: application/json'",
            "POST", "https://a.example/x", {"X-A": "b", "content-type": "application/json"}, '{"a": 1.10}',
        ),
        (
            "curl --request=PUT --url https://a.example/x --json '{\"a\":' --json '1}'",
            "PUT", "https://a.example/x", {"Content-Type": "application/json", "Accept": "application/json"}, '{"a":1}',
        ),
        (
            "curl https://a.example -d a=1 -d b=2", "POST", "https://a.example",
            {"Content-Type": "application/x-www-form-urlencoded"}, "a=1&b=2",
        ),
        ("curl -G 'https://a.example?z=0' -d a=1", "GET", "https://a.example?z=0&a=1", {}, ""),
        (
            r"""curl https://a.example --data-raw $'it\'s \u00e9\n\q@' -H 'Content-Type: text/plain'""", "POST",
            "https://a.example", {"Content-Type": "text/plain"}, "it's é\n\\q@",
        ),
    ],
)  # fmt: skip
def test_commands_are_read(command: str, method: str, url: str, headers: dict[str, str], body: str) -> None:
    found = read_curl(command)
    assert (found.method, found.url, found.headers, found.body) == (method, url, headers, body)
    assert found.left_out == []


def test_what_the_service_or_the_connection_brings_is_left_out() -> None:
    headers = "-H 'Authorization: Bearer abc' -H 'Host: b' -H 'Accept-Encoding: gzip' -H 'Cookie: s=1' -H 'X-A;'"
    found = read_curl(f"curl https://a.example {headers} -u me:word -b c=2 -m 10 --compressed")
    assert found.headers == {}
    assert found.left_out == ["Authorization", "Cookie", "-u", "-b"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "must begin with curl"),
        ("wget https://a.example", "must begin with curl"),
        ("curl", "has no URL"),
        ("curl 'https://a.example", "quote in the command is not closed"),
        ("curl https://a.example -d @order.json", "in a file"),
        ("curl https://a.example -F a=b", "Unknown option -F"),
        ("curl https://a.example --proxy x", "Unknown option --proxy"),
        ("curl https://a.example -X", "The option -X has no value"),
        ("curl " + "a" * 70_000, "longer than 65,536 characters"),
    ],
)
def test_what_cannot_be_repeated_is_said(command: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_curl(command)


@pytest.mark.django_db
def test_the_longest_address_that_fits_is_the_service() -> None:
    for name, url in (
        ("host", "https://a.example"),
        ("api", "https://a.example/api"),
        ("other", "https://a.example.org"),
    ):
        Service.objects.create(name=name, base_url=url)
    places = {
        "https://a.example/api/x?page=2#top": ("api", "/x", "page=2"),
        "https://a.example/apis": ("host", "/apis", ""),
        "https://a.example": ("host", "/", ""),
    }
    for url, place in places.items():
        start = from_curl(CurlCommand(method="GET", url=url))
        assert (start["service"], start["path"], start["query"]) == place, url
    with pytest.raises(ValueError, match="No service has the base URL"):
        from_curl(CurlCommand(method="GET", url="https://a.example.net/"))


def test_it_fills_in_the_form_and_sends_nothing(operator: Client, viewer: Client, billing: Service) -> None:
    command = f"curl {billing.base_url}/refunds -u me:word --json '{{\"amount\": 1.10}}'"
    page = operator.post("/lab/", {"curl": command})
    form: LabForm = page.context["form"]
    assert form["service"].value() == billing.name
    assert (form["method"].value(), form["path"].value()) == ("POST", "/refunds")
    assert '"amount": 1.10' in form["body"].value()
    assert "Left out: -u." in page.content.decode()
    assert "me:word" not in page.content.decode()
    refused = operator.post("/lab/", {"curl": "curl https://elsewhere.example/x"})
    assert refused.status_code == 422
    assert "No service has the base URL of https://elsewhere.example/x" in refused.content.decode()
    assert "curl https://elsewhere.example/x</textarea>" in refused.content.decode(), "the typed command stays"
    assert viewer.post("/lab/", {"curl": command}).status_code == 403
    assert not Attempt.objects.exists()
