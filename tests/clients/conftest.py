"""One installation for all tests of this folder: they use services of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from switchboard_client import Client
from tests.support.backends import Servers
from tests.support.installation import Installation
from tests.support.receiver import Receiver


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory, database: str, servers: Servers) -> Iterator[Installation]:
    with Installation(tmp_path_factory.mktemp("clients"), servers, on=database) as one:
        yield one


@pytest.fixture(scope="package")
def token(installation: Installation) -> str:
    return installation.token("operator", "client")


@pytest.fixture
def switchboard(installation: Installation, token: str) -> Iterator[Client]:
    with Client(installation.url, token) as client:
        yield client


@pytest.fixture
def register(installation: Installation, token: str, sink: Receiver) -> Callable[..., None]:
    """Registers a service at the receiver of this test."""

    def one(name: str, **fields: Any) -> None:
        with installation.api(token) as api:
            answer = api.post("services", json={"name": name, "base_url": sink.url, **fields})
            assert answer.status_code == 201, answer.text

    return one
