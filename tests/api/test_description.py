from __future__ import annotations

import re

import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from integrations.api import api
from integrations.api.openapi import EXAMPLES
from integrations.models import Message, Service
from tests.api.test_failures import failed
from tests.support.calling import Api


@pytest.mark.django_db
def test_the_api_describes_itself_in_openapi() -> None:
    answer = Client().get("/api/v1/openapi.json")
    described = answer.json()
    assert described["openapi"].startswith("3.1")
    assert described["components"]["securitySchemes"]["Bearer"]["scheme"] == "bearer"
    ids = [operation["operationId"] for methods in described["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))
    for methods in described["paths"].values():
        for operation in methods.values():
            assert re.search(r"Needs the (viewer|operator|admin) role\.$", operation["description"])
            assert {"401", "403", "429", "503"} <= operation["responses"].keys()
            assert "default" not in operation["responses"]
            body = operation.get("requestBody", {"content": {}})["content"].values()
            assert all("example" in content for content in body), operation["operationId"]
    unavailable = described["components"]["responses"]["Problem503"]
    assert "application/problem+json" in unavailable["content"]
    assert "Retry-After" in unavailable["headers"]
    assert "retry" in described["components"]["schemas"]["ServiceIn"]["properties"]


def test_the_description_satisfies_linters_and_generators() -> None:
    described = api.get_openapi_schema()
    assert described["servers"]
    assert described["info"]["license"]
    written = str(described)
    for kind in ("schemas", "responses", "headers"):
        for name in described["components"][kind]:
            assert f"'#/components/{kind}/{name}'" in written, f"{name} is never used"
    titles = [schema["title"] for schema in described["components"]["schemas"].values()]
    assert len(titles) == len(set(titles))  # a generator makes one class for each title, and drops the second
    for name, schema in described["components"]["schemas"].items():
        for field, rule in schema.get("properties", {}).items():
            assert not isinstance(rule.get("default"), dict), f"generators drop {name} for the default of {field}"


@pytest.mark.django_db
def test_the_docs_work_under_the_strict_policy() -> None:
    answer = Client().get("/api/v1/docs")
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "'unsafe" not in answer["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*(src=|type=\"application/json\"))", page)
    assert "<style" not in page
    assert " on" not in re.sub(r">[^<]*<", "><", page).replace(" content", "")
    for source in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert source.startswith("/static/"), source
        assert finders.find(source.removeprefix("/static/")), source


def test_a_call_of_the_description_needs_what_its_gate_asks_for(db: None) -> None:
    described = Client().get("/api/v1/openapi.json").json()["paths"]
    assert described["/api/v1/tokens"]["post"]["description"].endswith("Needs the admin role.")
    assert described["/api/v1/messages"]["get"]["description"].endswith("Needs the viewer role.")
    assert described["/api/v1/messages"]["post"]["description"].endswith("Needs the operator role.")


def test_every_example_of_the_description_is_taken(admin: Api) -> None:
    described = api.get_openapi_schema()["paths"]
    calls = {call["operationId"]: (m, path) for path, methods in described.items() for m, call in methods.items()}
    ids = {"name": "billing", "endpoint": "invoices"}
    for name, example in EXAMPLES.items():  # each finds what the ones before it have made
        method, path = calls[name]
        answer = admin.call(method.upper(), path.format(**ids), example)
        assert answer.status_code < 300, (name, answer.content)
        if name == "register_service":
            ids["failure_id"] = failed(Service.objects.get(), 500, message_id=None).public_id
        if name == "queue_message":
            ids["message_id"] = answer.json()["id"]
            Message.objects.update(status="dead", finished_at=timezone.now(), due_at=None)
        if name == "plan_operation":
            ids["operation_id"] = answer.json()["id"]


def test_the_printed_description_is_the_same_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("openapi")
    first = capsys.readouterr().out
    call_command("openapi")
    assert capsys.readouterr().out == first
