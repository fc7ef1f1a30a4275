from __future__ import annotations

import re

import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.test import Client

from integrations import schemas
from integrations.api.administration import TokenIn
from integrations.api.description import EXAMPLES


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


def test_every_example_of_the_description_is_taken() -> None:
    models = {
        "register_service": schemas.ServiceIn,
        "pause_service": schemas.PauseIn,
        "resume_service": schemas.ResumeIn,
        "rotate_signing": schemas.RotateIn,
        "register_endpoint": schemas.EndpointIn,
        "steer_breaker": schemas.BreakerIn,
        "queue_message": schemas.MessageIn,
        "replay_message": schemas.ReplayIn,
        "issue_token": TokenIn,
    }
    for name, model in models.items():
        model.model_validate(EXAMPLES[name])


def test_the_printed_description_is_the_same_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("openapi")
    first = capsys.readouterr().out
    call_command("openapi")
    assert capsys.readouterr().out == first
