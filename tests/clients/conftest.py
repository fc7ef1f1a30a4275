"""One installation for all tests of this folder: they use services of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.backends import Servers
from tests.support.installation import Installation


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory, database: str, servers: Servers) -> Iterator[Installation]:
    with Installation(tmp_path_factory.mktemp("clients"), servers, on=database) as one:
        yield one


@pytest.fixture(scope="package")
def token(installation: Installation) -> str:
    return installation.token("operator", "client")
