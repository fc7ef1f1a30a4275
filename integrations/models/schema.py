"""Compare the database's tables with those that the models expect, whatever the migration table says.

A migration that was changed after it had been applied, a column dropped by hand, or a backup of another version leaves
a database that says "all migrations are applied" and fails at its first statement.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from django.apps import apps
from django.conf import settings
from django.db import connection, models

LOOK_AGAIN = 60.0  # seconds that a result holds for a process that asks again and again
SHOWN = 5  # differences that a sentence names
WHAT_TO_DO = (
    "Another version made this database, or it was changed by hand; migrations do not repair it. Start the version "
    "that made it, restore a backup of this version, or add the missing column: "
    f"{settings.PROGRAM} sqlmigrate integrations NAME prints the statements of a migration."
)

RESTORING = "switchboard_restoring"  # a table that is there from the first to the last step of a restore, on PostgreSQL

# Tables, columns and names of indexes and constraints in two statements, for any number of tables.
COLUMNS = {
    "sqlite": 'SELECT t.name, c.name, c."notnull" AND NOT c.pk, c.dflt_value IS NOT NULL '
    "FROM sqlite_master t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'",
    "postgresql": "SELECT t.relname, c.attname, c.attnotnull, c.atthasdef OR c.attidentity <> '' "
    "FROM pg_class t JOIN pg_attribute c ON c.attrelid = t.oid "
    "WHERE t.relkind IN ('r', 'p') AND pg_table_is_visible(t.oid) AND c.attnum > 0 AND NOT c.attisdropped",
}
NAMES = {
    # SQLite keeps the name of a constraint in the text of its table only.
    "sqlite": "SELECT tbl_name, CASE type WHEN 'index' THEN name ELSE sql END FROM sqlite_master "
    "WHERE type IN ('index', 'table')",
    "postgresql": "SELECT t.relname, i.relname FROM pg_index x JOIN pg_class t ON t.oid = x.indrelid "
    "JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indisvalid AND pg_table_is_visible(t.oid) "
    "UNION ALL SELECT t.relname, c.conname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid "
    "WHERE pg_table_is_visible(t.oid)",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the database has or lacks, against the models. ``is_harmless``: it only makes statements slow."""

    text: str
    is_harmless: bool = False


@dataclass(slots=True)
class Table:
    """A table of the database: its columns, with (must not be null, has a default), and names of indexes."""

    columns: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        return any(name == known or f'CONSTRAINT "{name}"' in known for known in self.names)


def differences() -> list[Difference]:
    """Compare now: two queries."""
    tables = _tables()
    found: list[Difference] = []
    if RESTORING in tables:
        found.append(Difference("the restore of a backup has not ended, so run it again"))
    for model in sorted(apps.get_models(include_auto_created=True), key=lambda model: model._meta.db_table):
        if model._meta.managed and not model._meta.proxy and not model._meta.swapped:
            found += _differences(model, tables.get(model._meta.db_table))
    return found


def own_tables() -> list[str]:
    """The tables of this database that are ours, whatever version made them."""
    ours = {model._meta.db_table for model in apps.get_models(include_auto_created=True)}
    with connection.cursor() as cursor:
        names = connection.introspection.table_names(cursor)
    others = ("django_migrations", RESTORING)
    return sorted(name for name in names if name in ours or name in others or name.startswith("integrations_"))


def end_restore() -> None:
    """End what the table RESTORING stands for, and let PostgreSQL learn the sizes of the new tables."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE {RESTORING}")
            cursor.execute("ANALYZE")


def sentence(found: list[Difference]) -> str:
    """The differences in one sentence; empty without any."""
    texts = [difference.text for difference in found]
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return "; ".join([*texts[:SHOWN], *more])


def _tables() -> dict[str, Table]:
    tables: dict[str, Table] = defaultdict(Table)
    with connection.cursor() as cursor:
        cursor.execute(COLUMNS[connection.vendor])
        for table, column, is_required, has_default in cursor.fetchall():
            tables[table].columns[column] = (bool(is_required), bool(has_default))
        cursor.execute(NAMES[connection.vendor])
        for table, name in cursor.fetchall():
            tables[table].names.append(name or "")
    return tables


def _differences(model: type[models.Model], table: Table | None) -> Iterator[Difference]:
    name = model._meta.db_table
    if table is None:
        yield Difference(f"the table {name} is missing")
        return
    fields = {str(column.column): column for column in model._meta.local_concrete_fields}
    for column, expected in fields.items():
        if column not in table.columns:
            yield Difference(f"the table {name} has no column {column}")
        elif expected.null and table.columns[column][0]:
            yield Difference(f"the column {column} of the table {name} must not be null, but this version needs that")
    for column, (is_required, has_default) in table.columns.items():
        if column not in fields and is_required and not has_default:
            yield Difference(f"the table {name} requires a column {column} that this version does not know")
    for constraint in model._meta.constraints:
        if not table.has(constraint.name):
            yield Difference(f"the table {name} has no constraint {constraint.name}")
    for index in model._meta.indexes:
        if not table.has(index.name):
            yield Difference(f"the table {name} has no index {index.name}", is_harmless=True)


# ---- for a process that asks again and again ------------------------------------------------------------------------
_result: tuple[float, str] | None = None


def trouble() -> str:
    """The differences that make statements fail, in one sentence; empty without any. Compares every LOOK_AGAIN."""
    global _result
    if _result is None or time.monotonic() - _result[0] > LOOK_AGAIN:
        serious = [difference for difference in differences() if not difference.is_harmless]
        _result = time.monotonic(), sentence(serious)
    return _result[1]
