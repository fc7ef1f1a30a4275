"""Released versions: their code, and databases that they made (tests/fixtures/)."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.backends import ROOT, postgres_programs
from tests.support.installation import Installation

FIXTURES = ROOT / "tests" / "fixtures"
COMMITS = {"0.1.0": "0cb88daaabd12edd84b63a2563522ad506a7aadc"}
# The keys of the databases in tests/fixtures/, and of nothing else.
KEYS = {
    "SWITCHBOARD_SECRET_KEY": "of-the-fixtures-of-released-versions-and-of-nothing-else",
    "SWITCHBOARD_ENCRYPTION_KEYS": "b2YgdGhlIGZpeHR1cmVzIG9mIHJlbGVhc2VzIG9ubHk=",
}


def expected(version: str) -> dict[str, Any]:
    """The row ids and statuses of the messages in the fixture of a version, by name."""
    found: dict[str, Any] = json.loads((FIXTURES / f"switchboard-{version}.json").read_text())
    return found


def sqlite_file(version: str, path: Path) -> None:
    """Write the SQLite database of a version."""
    path.write_bytes(gzip.decompress((FIXTURES / f"switchboard-{version}.sqlite3.gz").read_bytes()))


def fill_postgres(version: str, url: str) -> None:
    """Load the PostgreSQL database of a version into an empty one."""
    script = gzip.decompress((FIXTURES / f"switchboard-{version}.sql.gz").read_bytes())
    psql = [
        str(postgres_programs() / "psql"),
        "--no-psqlrc",
        "--quiet",
        "--set=ON_ERROR_STOP=1",
        "--single-transaction",
    ]
    subprocess.run([*psql, f"--dbname={url}"], input=script, check=True, stdout=subprocess.DEVNULL)


def check_out(version: str, folder: Path) -> Path:
    """Write the files of a version into a folder. It needs the repository's history: in a shallow clone, run
    `git fetch --unshallow`."""
    folder.mkdir(parents=True)
    with subprocess.Popen(["git", "archive", COMMITS[version]], cwd=ROOT, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", str(folder)], stdin=archive.stdout, check=True)
    assert archive.returncode == 0, f"the commit of {version} is missing; run git fetch --unshallow"
    return folder


def use_version(installation: Installation, checkout: Path) -> Installation:
    """Let an installation run the files of a version, with the libraries of today."""
    installation.program = (installation.program[0], str(checkout / "manage.py"))
    installation.started_in = checkout
    return installation
