"""The Python client as a package: it holds its files, and needs httpx alone."""

from __future__ import annotations

import os
import subprocess
import sys
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

from tests.support.backends import ROOT

FOLDER = ROOT / "clients" / "python"


def test_the_wheel_holds_the_package_with_its_types_migrations_and_command(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=FOLDER, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    with ZipFile(built) as wheel:
        (facts,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        described = Parser().parsestr(wheel.read(facts).decode())
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = FOLDER / "switchboard_client"
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert held == {path.relative_to(FOLDER).as_posix() for path in files}
    assert [need for need in described.get_all("Requires-Dist", []) if "extra ==" not in need] == ["httpx<1,>=0.27"]


def test_the_migrations_of_the_outbox_make_its_tables(tmp_path: Path) -> None:
    shop = {"SHOP_DATABASE": "sqlite://:memory:", "SHOP_SWITCHBOARD": "http://127.0.0.1:9", "SHOP_TOKEN": "t"}
    look = [sys.executable, "-m", "django", "makemigrations", "--check", "--dry-run", "switchboard_outbox"]
    paths = f"{ROOT}{os.pathsep}{FOLDER}"
    environment = os.environ | shop | {"PYTHONPATH": paths, "DJANGO_SETTINGS_MODULE": "tests.clients.shop.settings"}
    ran = subprocess.run(look, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_sending_and_verifying_by_secret_load_neither_django_nor_cryptography() -> None:
    look = (
        "import sys, switchboard_client; print({'django', 'cryptography', 'integrations'} & {*sys.modules})\n"
        "try: switchboard_client.verify(b'', {'webhook-id': 'a', 'webhook-timestamp': '0', 'webhook-signature': 'v1,'},"
        " 'whsec_AAAA', now=0)\nexcept switchboard_client.InvalidSignature: print({'cryptography'} & {*sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", look], cwd=FOLDER, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["set()", "set()"]
