"""Check that no released migration has changed, and that each new one only adds.

Installations have run the released ones, and Django runs none twice. `integrations/migrations/frozen.sha256` lists the
migrations of every release, in the format of `sha256sum`. A release adds its new ones: `cd integrations/migrations &&
sha256sum 000N_*.py >> frozen.sha256`.

During an upgrade processes of the version before go on, and a table may have millions of rows. So a new migration makes
tables, nullable columns, columns with a default that stays in the database, and indexes that keep no writer out.
`python -m bench.upgrade` measures how long writers wait.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from django.db.migrations import AddConstraint, AddField, AddIndex, CreateModel, Migration, RunSQL
from django.db.migrations.operations.base import Operation

ROOT = Path(__file__).resolve().parents[1]
MIGRATIONS = ROOT / "integrations" / "migrations"
FIRST_CHECKED = "0010"  # the first that was written under this rule
# Others that were looked at: {"0012_name": "the reason, and how long bench.upgrade saw writers wait"}.
ALLOWED: dict[str, str] = {}


def changed(folder: Path) -> list[str]:
    """Return the names of the frozen migrations that are missing or have other bytes than at their release."""
    listed = [line.split() for line in (folder / "frozen.sha256").read_text().splitlines()]
    return [name for digest, name in listed if _digest(folder / name) != digest]


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def not_additive(migration: Migration) -> list[str]:
    """Describe the operations of a migration that do more than add, or keep writers out for long."""
    made = {operation.name_lower for operation in migration.operations if isinstance(operation, CreateModel)}
    return [operation.describe() for operation in migration.operations if not _adds(operation, made)]


def _adds(operation: Operation, made: set[str]) -> bool:
    if isinstance(operation, CreateModel):
        return True
    if isinstance(operation, AddField):
        # SQLite copies the whole table for any other column of Django's; write ALTER TABLE … ADD COLUMN by hand then.
        return operation.field.null and not operation.field.unique and not operation.field.has_default()
    if isinstance(operation, AddIndex | AddConstraint):
        return operation.model_name_lower in made
    if isinstance(operation, RunSQL):
        statements = [operation.sql] if isinstance(operation.sql, str) else operation.sql
        return all(_adds_by_hand(str(statement)) for statement in statements)
    return False


def _adds_by_hand(statement: str) -> bool:
    plain = " ".join(statement.split())
    if re.fullmatch(r"ALTER TABLE \w+ ADD COLUMN [^;]*", plain, re.IGNORECASE):
        return "NOT NULL" not in plain.upper() or "DEFAULT" in plain.upper()
    return bool(re.fullmatch(r"CREATE INDEX CONCURRENTLY [^;]*", plain, re.IGNORECASE))


def _new_migrations() -> Iterator[Migration]:
    names = sorted(path.stem for path in MIGRATIONS.glob("0*.py"))
    for name in names:
        if name >= FIRST_CHECKED and name not in ALLOWED:
            module = import_module(f"integrations.migrations.{name}")
            yield module.Migration(name, "integrations")


def main() -> int:
    names = changed(MIGRATIONS)
    for name in names:
        print(
            f"integrations/migrations/{name} is released and must not change: restore it with "
            f"`git checkout -- integrations/migrations/{name}` and put the change of a table into a new migration "
            "(`manage.py makemigrations integrations`; the first one is 0002)."
        )
    return bool(names) + _report_risky()


def _report_risky() -> int:
    risky = [(migration.name, text) for migration in _new_migrations() for text in not_additive(migration)]
    for name, text in risky:
        print(
            f"integrations/migrations/{name}.py: “{text}” does not only add. Split it into steps that do, over two "
            "minor versions, or measure it with `python -m bench.upgrade` and name it in ALLOWED of this script."
        )
    return len(risky)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
    import django

    django.setup()
    sys.exit(bool(main()))
