"""Rules of the layout that import-linter cannot check."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Django's ways to a statement of one's own, and ``prepared`` of integrations/models/sql.py.
BY_HAND = {"cursor", "raw", "extra", "RawSQL", "sql_with_params", "prepared"}
NOT_MODELS = {
    "integrations/postgresql/base.py",  # what a connection is told when it begins
    "integrations/wakeup.py",  # NOTIFY, LISTEN and PRAGMA data_version: the doorbell, which models import
    "integrations/management/commands/doctor.py",  # PRAGMA journal_mode: a setting of the database, not a row
}


def test_sql_by_hand_lives_in_models_only() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for package in ("integrations", "dashboard")
        for path in (ROOT / package).rglob("*.py")
        if not {"models", "migrations"} & set(path.relative_to(ROOT).parts)
        if str(path.relative_to(ROOT)) not in NOT_MODELS
        for line in _sql_by_hand(path)
    }
    assert not found


def test_architecture_md_draws_the_layers_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == ["integrations"]]
    drawn = " ".join((ROOT / "ARCHITECTURE.md").read_text().split())
    assert f"integrations: {' → '.join(layers)} " in drawn


def test_the_exceptions_are_still_needed() -> None:
    assert {name for name in NOT_MODELS if not list(_sql_by_hand(ROOT / name))} == set()


def _sql_by_hand(path: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in BY_HAND:
                yield node.lineno
