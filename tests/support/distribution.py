"""How a run with `-n` spreads the tests over its processes, and which tests run alone."""

from __future__ import annotations

import fcntl
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import pytest
from xdist.scheduler import LoadScopeScheduling

BROWSER_TESTS = "tests/browser/"
BROWSER_PARTS = 2  # and one more; each takes a Chromium and an installation, which cost 5 s of CPU
CLIENT_TESTS = "tests/clients/"  # share one installation
EVERY_PAGE = "tests/browser/test_every_page.py"  # takes as long as either part of the others


def is_worker(config: pytest.Config) -> bool:
    """Whether this process runs tests that another one hands out."""
    return hasattr(config, "workerinput")


def only_hands_out_tests(config: pytest.Config) -> bool:
    """Whether this process runs no test itself, and so needs no server."""
    is_distributed = getattr(config.option, "dist", "no") != "no" and not config.option.collectonly
    return is_distributed and not is_worker(config)


class Controller:
    """The part of the process that hands out the tests."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="switchboard-turns-")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["turns"] = self._folder.name

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Schedule:
        config.option.loadscopereorder = False  # the order is ours
        return Schedule(config, log)

    def pytest_unconfigure(self) -> None:
        self._folder.cleanup()


class Schedule(LoadScopeScheduling):
    """Hands out test after test, the browser tests in a few parts and those of clients together, so that few workers
    start what they need.

    The same as `--dist loadgroup`, which does nothing with pytest 9.2 and xdist 3.8: the one sets `_nodeid`, which the
    other no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith(CLIENT_TESTS):
            return CLIENT_TESTS
        if not file.startswith(BROWSER_TESTS):
            return nodeid
        return file if file == EVERY_PAGE else f"browser-{crc32(file.encode()) % BROWSER_PARTS}"


class Worker:
    """The part of a process that runs tests.

    xdist hands out the tests in the order in which each worker has collected them. The slow ones come first, so that
    all workers end at about the same time; those that run alone come last, when no slow one is left to wait for.
    """

    def __init__(self, config: pytest.Config) -> None:
        folder = Path(config.workerinput["turns"])  # type: ignore[attr-defined]
        self._door, self._room = (folder / "door").open("w"), (folder / "room").open("w")

    @pytest.hookimpl(trylast=True)  # after pytest-django, which sorts by database
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=_place)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)  # around pytest-timeout: waiting for a turn costs no time
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None]:
        is_alone = item.get_closest_marker("alone") is not None
        # A test that waits for the room holds the door, so that others cannot keep a test that runs alone waiting.
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(self._door, fcntl.LOCK_UN)
        yield
        fcntl.flock(self._room, fcntl.LOCK_UN)


def _place(item: pytest.Item) -> int:
    if item.get_closest_marker("alone"):
        return 3
    if item.get_closest_marker("browser"):
        return 0
    if item.get_closest_marker("slow"):
        return 1
    return 2
