"""Settings of breaker and retry that break a rule: refused at their field with a clear sentence, by API and by form."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
from django.test import Client

from integrations.models import Account, Role, Service, Token

pytestmark = pytest.mark.django_db

# (settings, the field, its error)
BROKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"breaker": {"failure_rate": 0}}, "breaker.failure_rate", "must be more than 0"),
    ({"breaker": {"failure_rate": 1.01}}, "breaker.failure_rate", "must be at most 1"),
    ({"breaker": {"failure_rate": "half"}}, "breaker.failure_rate", "must be a number"),
    ({"breaker": {"slow_call_rate": 0, "slow_call_duration": 1}}, "breaker.slow_call_rate", "must be more than 0"),
    (
        {"breaker": {"slow_call_rate": 0.5}},
        "breaker.slow_call_duration",
        "is needed with slow_call_rate: it defines which calls are slow",
    ),
    ({"breaker": {"window": {"size": 0}}}, "breaker.window.size", "must be at least 1"),
    ({"breaker": {"window": {"size": 1001}}}, "breaker.window.size", "must be at most 1,000"),
    ({"breaker": {"minimum_calls": 0}}, "breaker.minimum_calls", "must be at least 1"),
    (
        {"breaker": {"window": {"type": "count", "size": 10}, "minimum_calls": 11}},
        "breaker.minimum_calls",
        "must be at most 10: the window never holds more calls",
    ),
    ({"breaker": {"open_for": 0.4}}, "breaker.open_for", "must be at least 0.5"),
    ({"breaker": {"open_for": 86_401, "open_max": 90_000}}, "breaker.open_for", "must be at most 86,400"),
    (
        {"breaker": {"open_for": 61, "open_max": 60}},
        "breaker.open_max",
        "must be at least as long as open_for (61)",
    ),
    ({"breaker": {"half_open_calls": 0}}, "breaker.half_open_calls", "must be at least 1"),
    ({"breaker": {"half_open_calls": 101}}, "breaker.half_open_calls", "must be at most 100"),
    ({"breaker": {"half_open_calls": 1.5}}, "breaker.half_open_calls", "must be a whole number"),
    ({"retry": {"schedule": [5, -1]}}, "retry.schedule.1", "must be at least 0"),
    ({"retry": {"schedule": [1] * 51}}, "retry.schedule", "may have at most 50 entries"),
    ({"retry": {"jitter": 1.1}}, "retry.jitter", "must be at most 1"),
    ({"retry": {"max_attempts": 0}}, "retry.max_attempts", "must be at least 1"),
    ({"retry": {"on_gone": "ignore"}}, "retry.on_gone", "must be 'dead' or 'pause'"),
]
SET_BY_CHOICE = ("retry.on_gone",)  # a list to choose from: nothing else can be typed

KEPT: list[dict[str, Any]] = [
    {"breaker": {"failure_rate": 1, "open_for": 0.5, "open_max": 0.5, "half_open_calls": 1}},
    {"breaker": {"failure_rate": 0.0001, "open_for": 86_400, "open_max": 86_400, "half_open_calls": 100}},
    {"breaker": {"window": {"type": "count", "size": 10}, "minimum_calls": 10}},
    {"breaker": {"window": {"type": "time", "size": 10}, "minimum_calls": 500}},  # a busy service has them in 10 s
    {"retry": {"schedule": []}},
    {"retry": {"schedule": [0] * 50}},
]


@pytest.mark.parametrize(("settings", "field", "words"), BROKEN)
def test_the_api_says_which_rule_is_broken_and_where(settings: dict[str, Any], field: str, words: str) -> None:
    answer = register(settings)
    problem = answer.json()
    assert (answer.status_code, answer["Content-Type"]) == (422, "application/problem+json")
    location = ["body", *(int(part) if part.isdigit() else part for part in field.split("."))]
    assert problem["errors"] == [{"loc": location, "msg": words}]
    assert problem["detail"] == f"{field}: {words}"
    assert not Service.objects.exists()


@pytest.mark.parametrize(("settings", "field", "words"), [row for row in BROKEN if row[1] not in SET_BY_CHOICE])
def test_the_form_says_it_beside_the_field(settings: dict[str, Any], field: str, words: str) -> None:
    in_list = field[-1].isdigit()
    name = field.rpartition(".")[0] if in_list else field
    answer = submit(settings)
    assert answer.status_code == 422
    words = words.replace("must be a number", "write a share such as 20 %")  # what a form reads as one
    said = f"“-1”: {words}" if in_list else f"{words[0].upper()}{words[1:]}"
    assert said in complaints(answer.content.decode())[name]
    assert not Service.objects.exists()


@pytest.mark.parametrize("settings", KEPT)
def test_settings_at_the_edge_are_taken(settings: dict[str, Any]) -> None:
    answer = register(settings)
    assert answer.status_code == 201, answer.content
    for group, fields in settings.items():
        assert answer.json()[group] == {**answer.json()[group], **fields}
    Service.objects.all().delete()
    assert submit(settings).status_code == 303


def register(settings: dict[str, Any]) -> Any:
    _, secret = Token.objects.issue("program", Role.OPERATOR)
    body = {"name": "billing", "base_url": "https://billing.example.com", **settings}
    return Client().post(
        "/api/v1/services",
        json.dumps(body),
        content_type="application/json",
        headers={"Authorization": f"Bearer {secret}"},
    )


def submit(settings: dict[str, Any]) -> Any:
    client = Client()
    account = Account.objects.create(username="ada", role=Role.OPERATOR)
    client.force_login(account, backend="django.contrib.auth.backends.ModelBackend")
    typed = {"name": "billing", "base_url": "https://billing.example.com", "breaker.enabled": "on"}
    for group, fields in settings.items():
        for name, value in fields.items():
            if isinstance(value, dict):
                typed |= {f"{group}.{name}.{inner}": str(what) for inner, what in value.items()}
            else:
                typed[f"{group}.{name}"] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return client.post("/services/new/", typed)


def complaints(page: str) -> dict[str, str]:
    """The error of each field by its name: the text that the field's input points at."""
    found: dict[str, str] = {}
    for tag in re.findall(r"<(?:input|select|textarea)\b[^>]*>", page):
        name, described = re.search(r'name="([^"]+)"', tag), re.search(r'aria-describedby="([^"]+)"', tag)
        if name and described and 'aria-invalid="true"' in tag:
            texts = [re.search(rf'(?s)id="{re.escape(one)}"[^>]*>(.*?)</', page) for one in described[1].split()]
            found[name[1]] = " ".join(re.sub(r"<[^>]+>", " ", unescape(text[1])) for text in texts if text)
    return found
