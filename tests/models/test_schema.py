"""A database whose tables are not those of this version: `up`, `doctor` and `/readyz` say so."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from integrations.management.commands.doctor import check_results
from integrations.management.commands.up import Command
from integrations.models import Worker, schema
from integrations.models.schema import Table

RENAME = "ALTER TABLE integrations_worker RENAME COLUMN failed TO failures"  # both databases take it back with the test


@pytest.fixture(autouse=True)
def _looked_at_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_result", None)


def _change(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.django_db
def test_the_migrations_make_the_tables_that_the_models_expect() -> None:
    assert schema.differences() == []
    Command()._check_schema()
    assert "ok: the tables are those of this version" in map(str, check_results())
    assert Client().get("/readyz").json()["schema"] is True


@pytest.mark.django_db
def test_a_missing_column_is_said_whatever_the_migration_table_says() -> None:
    """A migration had been changed after it was applied: "no migrations to apply", all ok, and every call was 503."""
    _change(RENAME)
    with pytest.raises(CommandError) as refused:
        Command()._check_schema()
    said = str(refused.value)
    assert "the table integrations_worker has no column failed" in said
    assert "the table integrations_worker requires a column failures that this version does not know" in said
    assert "manage.py sqlmigrate" in said
    assert "\n" not in said
    lines = list(map(str, check_results()))
    assert "ok: all migrations are applied" in lines
    assert any(line.startswith("fail: ") and "integrations_worker has no column failed" in line for line in lines)
    answer = Client().get("/readyz")
    assert answer.status_code == 503
    assert (answer.json()["database"], answer.json()["migrations"], answer.json()["schema"]) == (True, True, False)
    assert "the table integrations_worker has no column failed" in answer.json()["reason"]


@pytest.mark.django_db
def test_the_doctor_exits_with_1_for_a_missing_column(capsys: pytest.CaptureFixture[str]) -> None:
    _change(RENAME)
    with pytest.raises(SystemExit) as stopped:
        call_command("doctor")
    assert stopped.value.code == 1
    assert "fail: the database does not have the tables of this version" in capsys.readouterr().out


@pytest.mark.django_db
def test_a_missing_index_is_said_and_refuses_nothing() -> None:
    _change("DROP INDEX worker_alive")
    errors = io.StringIO()
    Command(stderr=errors)._check_schema()
    assert "the table integrations_worker has no index worker_alive" in errors.getvalue()
    assert any(line.startswith("warn: statements are slow: ") for line in map(str, check_results()))
    assert Client().get("/readyz").status_code == 200


@pytest.mark.django_db
def test_a_probe_of_readyz_does_not_compare_again(django_assert_num_queries: Any) -> None:
    assert schema.trouble() == ""
    with django_assert_num_queries(0):
        assert schema.trouble() == ""


def _worker_table() -> Table:
    fields = Worker._meta.local_concrete_fields
    columns = {str(field.column): (not field.null, False) for field in fields}
    return Table(columns, [index.name for index in Worker._meta.indexes])


def _texts(table: Table | None, model: Any = Worker) -> list[str]:
    return [difference.text for difference in schema._differences(model, table)]


def test_what_makes_statements_fail_is_a_difference() -> None:
    from integrations.models import Tally

    assert _texts(None) == ["the table integrations_worker is missing"]
    table = _worker_table()
    assert _texts(table) == []
    table.columns["stopped_at"] = (True, False)
    assert _texts(table) == [
        "the column stopped_at of the table integrations_worker must not be null, but this version needs that"
    ]
    assert "the table integrations_tally has no constraint tally_of_minute" in _texts(Table({}, []), Tally)


def test_a_column_that_a_newer_version_added_with_a_default_is_none() -> None:
    table = _worker_table()
    table.columns["newer"] = (True, True)
    table.columns["newest"] = (False, False)
    assert _texts(table) == []
