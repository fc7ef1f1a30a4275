from __future__ import annotations

import re

import pytest
from django.contrib.staticfiles import finders
from django.test import Client


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
            assert "application/problem+json" in operation["responses"]["default"]["content"]
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
