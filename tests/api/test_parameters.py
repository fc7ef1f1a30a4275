"""A query parameter that a call does not offer is refused, with the nearest name."""

from __future__ import annotations

import pytest

from integrations.models import Service
from tests.support.calling import Api, is_problem


@pytest.mark.parametrize(
    ("path", "name", "advice"),
    [
        ("/messages?stauts=dead", "stauts", "did you mean status?"),
        ("/messages?created_afer=2026-01-01T00:00:00Z", "created_afer", "did you mean created_after?"),
        ("/services?page=2", "page", "use "),
        ("/failures?zzzz=1", "zzzz", "use service, state, limit, cursor"),
        ("/audit?targt=billing", "targt", "did you mean target?"),
        ("/operations?sate=running", "sate", "did you mean state?"),
        ("/services/billing?verbose=1", "verbose", "this call takes no parameters"),
    ],
)
def test_an_unknown_parameter_is_refused_with_the_nearest_name(
    admin: Api, billing: Service, path: str, name: str, advice: str
) -> None:
    (error,) = is_problem(admin.get(path), 422)["errors"]
    assert error["loc"] == ["query", name]
    assert advice in error["msg"]


def test_a_misspelt_force_deletes_nothing(admin: Api, billing: Service) -> None:
    is_problem(admin.delete("/services/billing?forse=true"), 422)
    assert Service.objects.exists()


def test_without_a_token_it_is_a_401(db: None) -> None:
    from django.test import Client

    assert Client().get("/api/v1/messages?stauts=dead").status_code == 401
