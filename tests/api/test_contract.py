"""docs/contract.md names every word and every field that a client may rely on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from integrations.api import responses
from integrations.api.events import TOPICS
from integrations.models import Attempt, FailureState, Message
from integrations.models.operation import Kind, State
from integrations.outbound.outcome import Fault
from integrations.policies import breaker
from integrations.policies.retry import DeadReason
from integrations.schemas.message import MessageIn
from integrations.schemas.service import EndpointIn, ServiceIn
from tests.support.backends import ROOT

CONTRACT = (ROOT / "docs/contract.md").read_text()


def missing(names: Iterable[str]) -> list[str]:
    """Return the names that the contract does not have in backticks, alone or as a key of an object."""
    return [name for name in names if f"`{name}`" not in CONTRACT and f'"{name}"' not in CONTRACT]


def choices(field: str) -> list[str]:
    column: Any = Attempt._meta.get_field(field)
    return [value for value, _ in column.choices or ()]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([*Fault], id="faults"),
        pytest.param([*DeadReason], id="dead reasons"),
        pytest.param([value for value, _ in Message._meta.get_field("status").choices or ()], id="statuses"),
        pytest.param(choices("trigger"), id="triggers"),
        pytest.param(choices("outcome"), id="outcomes"),
        pytest.param([*get_args(responses.WaitingOut.model_fields["kind"].annotation)], id="reasons to wait"),
        pytest.param(
            [*get_args(breaker.State), *get_args(breaker.Mode), *get_args(breaker.OperatorAction)], id="breaker"
        ),
        pytest.param([*Kind, *State], id="operations"),
        pytest.param([*FailureState], id="failure groups"),
        pytest.param([*TOPICS], id="topics"),
    ],
)
def test_the_contract_names_every_public_word(words: list[str]) -> None:
    assert missing(map(str, words)) == []


@pytest.mark.parametrize(
    "model",
    [
        ServiceIn,
        EndpointIn,
        MessageIn,
        responses.ServiceOut,
        responses.ListedMessageOut,
        responses.AttemptOut,
        responses.BreakerOut,
        responses.OperationOut,
        responses.FailureOut,
    ],
)
def test_the_contract_names_every_field(model: type[BaseModel]) -> None:
    allowed: set[Any] = {"stop_at_failure_rate"}  # among the things that are not built
    assert missing(name for name in model.model_fields if name not in allowed) == []


def test_the_contract_names_every_call() -> None:
    paths = json.loads((ROOT / "docs/openapi.json").read_text())["paths"]
    segments = {part for path in paths for part in path.removeprefix("/api/v1/").split("/") if not part.startswith("{")}
    assert [segment for segment in sorted(segments) if f"/{segment}" not in CONTRACT] == []
