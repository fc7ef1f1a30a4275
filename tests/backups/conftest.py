"""Databases that a test may replace, and PostgreSQL's programs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backends import Servers, postgres_programs

NewDatabase = Callable[[], None]


@pytest.fixture
def new_database(
    database: str, servers: Servers, tmp_path: Path, django_db_blocker: Any, settings: Any, monkeypatch: Any
) -> Iterator[NewDatabase]:
    """Lets this process use a database of its own, with tables and no rows; called again, another one."""
    from django.db import connection

    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    settings.ALLOW_PRIVATE = "127.0.0.0/8"
    monkeypatch.setenv("PATH", f"{postgres_programs()}{os.pathsep}{os.environ['PATH']}")

    def use_new() -> None:
        connection.close()
        if database == "sqlite":
            name = str(settings.DATA_DIR / f"{len(list(settings.DATA_DIR.iterdir()))}.sqlite3")
            shutil.copy(servers.migrated_sqlite, name)
        else:
            name = servers.new_postgres_database(migrated=True).rpartition("/")[2]
        connection.settings_dict["NAME"] = name

    with django_db_blocker.unblock():
        before = connection.settings_dict["NAME"]
        use_new()
        try:
            yield use_new
        finally:
            connection.close()
            connection.settings_dict["NAME"] = before
