"""The peers' packages, outside the product's: bench/.venv and bench/node_modules, installed when first needed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

BENCH = Path(__file__).parent
VENV = BENCH / ".venv"
REQUIREMENTS = BENCH / "requirements.txt"
NODE_PACKAGES = BENCH / "node_modules"
INSTALLED_WITHIN = 300.0  # seconds


class Unavailable(Exception):
    """Something cannot be had on this machine; the text says what, in one line."""


@cache
def python() -> str:
    """The Python that has the peers' packages. Raises Unavailable."""
    mark = VENV / f"installed-{_version(REQUIREMENTS)}"
    if not mark.exists():
        print("  installing the Python peers into bench/.venv", flush=True)
        _run([sys.executable, "-m", "venv", str(VENV)])  # an existing one stays: a run may be using it
        pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _run([*pip, "-r", str(REQUIREMENTS)])
        mark.touch()
    return str(VENV / "bin" / "python")


@cache
def node() -> str:
    """The Node that finds the peers' packages. Raises Unavailable."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None:
        raise Unavailable("no node on this machine")
    mark = NODE_PACKAGES / f".installed-{_version(BENCH / 'package.json')}"
    if not mark.exists():
        if npm is None:
            raise Unavailable("no npm on this machine")
        print("  installing the Node peers into bench/node_modules", flush=True)
        _run([npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"])
        mark.touch()
    return program


def _version(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, cwd=BENCH, capture_output=True, text=True, timeout=INSTALLED_WITHIN)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{Path(command[0]).name} {command[1]}: {type(error).__name__}") from None
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Unavailable(f"{Path(command[0]).name} {command[1]} failed: {words[-1] if words else done.returncode}")
