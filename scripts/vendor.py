"""Fetch the browser libraries under static/vendor/, or check that no one has edited them.

    python scripts/vendor.py check    compare every file with the manifest
    python scripts/vendor.py fetch    take the files again from their npm packages, then check

To move to another version, change it in the manifest and fetch: the check then prints the new sha256 to write there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).resolve().parent.parent / "static" / "vendor"
MANIFEST = VENDOR / "manifest.json"


def main() -> None:
    libraries = json.loads(MANIFEST.read_text())
    if sys.argv[1:] == ["fetch"]:
        for library in libraries:
            fetch(library)
    elif sys.argv[1:] != ["check"]:
        sys.exit(__doc__)
    if wrong := check(libraries):
        sys.exit("\n".join(wrong))


def fetch(library: dict[str, Any]) -> None:
    """Unpack the files that the manifest names from the npm package, byte for byte."""
    with tempfile.TemporaryDirectory() as folder:
        package = f"{library['name']}@{library['version']}"
        subprocess.run(["npm", "pack", "--silent", "--pack-destination", folder, package], check=True)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            for file in library["files"]:
                packed = archive.extractfile(f"package/{file['from']}")
                assert packed is not None, f"{package} has no {file['from']}"
                target = VENDOR / file["file"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(packed.read())


def check(libraries: list[dict[str, Any]]) -> list[str]:
    """Name each file that differs from the manifest, is missing, or is not in it."""
    expected = {file["file"]: file["sha256"] for library in libraries for file in library["files"]}
    files = (path for path in VENDOR.rglob("*") if path.is_file() and path != MANIFEST)
    found = {path.relative_to(VENDOR).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}
    return [
        f"static/vendor/{name}: the manifest has sha256 {expected.get(name)}, the file {found.get(name)}"
        for name in sorted(expected | found)
        if expected.get(name) != found.get(name)
    ]


if __name__ == "__main__":
    main()
