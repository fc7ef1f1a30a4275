"""The wheel: it holds what the checkout serves, and runs where there is no checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest

import integrations
from tests.support.backends import ROOT
from tests.support.installation import Installation, clean_environment
from tests.support.receiver import Receiver
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_that_the_checkout_runs_with(wheel: Path) -> None:
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {name for folder in ("dashboard", "integrations") for name in files_of(folder)}
    shown = {f"dashboard/{name}" for folder in ("templates", "static", "docs") for name in files_of(folder)}
    assert held == modules | shown


def test_an_unpacked_wheel_finds_its_pages_and_the_users_data_folder(wheel: Path, tmp_path: Path) -> None:
    ZipFile(wheel).extractall(tmp_path / "site")
    looked = """if True:
        import django; django.setup()
        from django.conf import settings
        from django.contrib.staticfiles.finders import find
        from django.template.loader import get_template
        from dashboard.presenters.documents import document
        for found in settings.DATA_DIR, get_template("base.html").origin, find("console.css"), document("start").title:
            print(found)
    """
    environment = home(tmp_path) | {
        "PYTHONPATH": str(tmp_path / "site"),
        "DJANGO_SETTINGS_MODULE": "dashboard.settings",
    }
    found = subprocess.run(
        [sys.executable, "-P", "-c", looked], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    package = tmp_path / "site" / "dashboard"
    assert found[1:] == [str(package / "templates/base.html"), str(package / "static/console.css"), "Start"]
    assert found[0] == str(tmp_path / ".local/share/switchboard")


@pytest.mark.long
@pytest.mark.timeout(180)
def test_an_installed_wheel_delivers_from_an_empty_folder(
    wheel: Path, tmp_path: Path, start_installation: Callable[..., Installation], sink: Receiver
) -> None:
    installation = start_installation(on="sqlite", migrated=False, start=False)
    installation.program = (str(install(wheel, tmp_path / "venv")),)
    installation.started_in = tmp_path / "empty"
    installation.started_in.mkdir()
    installation.env |= home(tmp_path)
    del installation.env["SWITCHBOARD_DATA"]

    version = installation.manage("--version").stdout
    installation.start()
    with installation.api() as api:
        api.post("services", json={"name": "billing", "base_url": sink.url}).raise_for_status()
        message = {"service": "billing", "path": "/orders", "body": {"order": 42}}
        queued = api.post("messages", json=message).raise_for_status().json()
        until(lambda: api.get(f"messages/{queued['id']}").json()["status"] == "delivered", within=20)
    password = installation.operator("ada")
    with httpx.Client(base_url=installation.url, follow_redirects=True, trust_env=False) as browser:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get("/login/").text)[1]
        browser.post("/login/", data={"username": "ada", "password": password, "csrfmiddlewaretoken": token})
        overview, help_page = browser.get("/"), browser.get("/docs/start/")
        styles = browser.get("/static/console.css")

    assert version == f"switchboard {integrations.__version__}\n"
    assert [call.json() for call in sink.calls] == [{"order": 42}]
    assert f"The data folder is {tmp_path}/.local/share/switchboard." in installation.log
    assert (tmp_path / ".local/share/switchboard/keys.json").stat().st_mode & 0o777 == 0o600
    assert "billing" in overview.text
    assert "A first message by API" in help_page.text
    assert styles.status_code == 200
    assert not list(installation.started_in.iterdir())
    installation.stop()


def files_of(folder: str) -> set[str]:
    paths = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in paths}


def home(folder: Path) -> dict[str, str]:
    """The environment of an account whose home is this folder."""
    kept = {name: value for name, value in clean_environment().items() if not name.startswith("XDG_")}
    return kept | {"HOME": str(folder)}


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel alone; its dependencies are those of this run. Return the program."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, env=dict(os.environ))
    return folder / "bin" / "switchboard"
