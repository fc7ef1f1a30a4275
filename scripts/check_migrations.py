"""Check that no released migration has changed: installations have run them, and Django runs none twice.

`integrations/migrations/frozen.sha256` lists the migrations of every release, in the format of `sha256sum`. A release
adds its new ones: `cd integrations/migrations && sha256sum 000N_*.py >> frozen.sha256`.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

MIGRATIONS = Path(__file__).resolve().parents[1] / "integrations" / "migrations"


def changed(folder: Path) -> list[str]:
    """Return the names of the frozen migrations that are missing or have other bytes than at their release."""
    listed = [line.split() for line in (folder / "frozen.sha256").read_text().splitlines()]
    return [name for digest, name in listed if _digest(folder / name) != digest]


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def main() -> int:
    names = changed(MIGRATIONS)
    for name in names:
        print(
            f"integrations/migrations/{name} is released and must not change: restore it with "
            f"`git checkout -- integrations/migrations/{name}` and put the change of a table into a new migration "
            "(`manage.py makemigrations integrations`; the first one is 0002)."
        )
    return bool(names)


if __name__ == "__main__":
    sys.exit(main())
