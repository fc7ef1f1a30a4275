"""The options of a run, its servers, and the fixtures that every test may ask for.

`pytest` runs the whole suite on SQLite; `pytest --database postgres` runs what touches a database on PostgreSQL and
Redis. Most tests that kill processes run on SQLite alone; `--long` runs them on both and adds the long proofs.

The folders mirror the code. The others are:

- `test_journey.py`: the story of a message, once from end to end; read it first.
- `browser/`: a real Chromium before a whole installation. `faults/`: processes and servers that are killed.
- `support/`: shared parts. `backends` starts PostgreSQL and Redis, `database` empties the database, `distribution`
  spreads a run with `-n` over processes. `installation` is a `manage.py up`, `pumps` are workers, `receiver` and
  `upstreams` are the other side of a call. `queueing` registers services, queues messages and delivers them.
  `calling` is a caller of the API, `signed_in` an operator of the console, `serving` the ASGI application on a port.
  `records` makes rows, `searching` reads a search in each way, `waiting` waits for a condition.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support import distribution
from tests.support.backends import Servers
from tests.support.installation import Installation, clean_environment, fresh_keys
from tests.support.pooler import Pooler
from tests.support.receiver import Receiver

pytest_plugins = ["tests.support.queueing", "tests.support.pumps", "tests.support.upstreams"]

SERVERS = pytest.StashKey[Servers]()

DATABASE_FIXTURES = {"db", "transactional_db", "live_server", "database", "installation", "start_installation"}
BROWSER_FIXTURES = {"browser", "page"}
SLOW_FIXTURES = {"installation", "start_installation", "pumps", "own_servers"}  # they start processes

# Two cores that also run a database make a deadline a coin toss.
hypothesis.settings.register_profile("switchboard", deadline=None, print_blob=True)
hypothesis.settings.load_profile("switchboard")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("switchboard")
    group.addoption(
        "--database",
        choices=("sqlite", "postgres"),
        default="sqlite",
        help="sqlite: the whole suite; postgres: all that touches a database, on a PostgreSQL and Redis of its own",
    )
    group.addoption(
        "--pooler",
        choices=("session", "transaction"),
        help="with --database postgres: reach the database of the tests themselves through a PgBouncer in this mode",
    )
    group.addoption("--long", action="store_true", help="also run the long proofs (marked `long`)")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.help or config.option.version:
        return
    if "DJANGO_SETTINGS_MODULE" in os.environ:
        # pytest-django would have read them by now, with this shell's database.
        raise pytest.UsageError("unset DJANGO_SETTINGS_MODULE: the tests choose their settings themselves")
    if distribution.is_worker(config):
        config.pluginmanager.register(distribution.Worker(config))
    else:
        config.pluginmanager.register(BrowserTests(config))
    if distribution.only_hands_out_tests(config):
        config.pluginmanager.register(distribution.Controller())
        return
    servers = config.stash[SERVERS] = Servers()
    environment = clean_environment() | fresh_keys() | {"SWITCHBOARD_DATA": str(servers.folder / "data")}
    if config.option.database == "postgres":
        environment["SWITCHBOARD_DATABASE_URL"] = servers.postgres_url("switchboard")
        environment["SWITCHBOARD_REDIS_URL"] = servers.redis_url()
        if config.option.pooler:
            # The guardian of the servers ends it. It keeps sessions open, so that no database can be dropped.
            servers.set_idle_timeout("5s")  # as docs/deploying.md says
            bouncer = Pooler(servers, config.option.pooler)
            environment["SWITCHBOARD_DATABASE_URL"] = bouncer.url(environment["SWITCHBOARD_DATABASE_URL"])
            config.option.reuse_db = True
    for name in [name for name in os.environ if name.startswith("SWITCHBOARD_") and not _is_for_tests(name)]:
        del os.environ[name]
    os.environ.update(environment)
    # The settings read all that when they are imported, and pytest-django takes them up after this hook.
    os.environ["DJANGO_SETTINGS_MODULE"] = "dashboard.settings"
    from django.conf import settings

    # In this process only; what an installation does is as it is. Django's hash of a password takes 0.3 s, and each
    # test client makes the middleware again, which prepares all static files in 20 ms.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.WHITENOISE_AUTOREFRESH = True


def pytest_collection(session: pytest.Session) -> None:
    # Nothing that is loaded from here to the end of the collection is ever freed; looking through it over and over
    # takes a sixth of the CPU of a run.
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    if servers := config.stash.get(SERVERS, None):
        servers.close()


def pytest_report_header(config: pytest.Config) -> str:
    on = {"sqlite": "SQLite, the whole suite", "postgres": "PostgreSQL and Redis, all that touches a database"}
    return f"database: {on[config.option.database]}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if BROWSER_FIXTURES & _fixtures(item):
            item.add_marker("browser")
        if SLOW_FIXTURES & _fixtures(item):
            item.add_marker("slow")
    left_out = [item for item in items if not _belongs(item, config)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    from django.db import connection

    # The transaction around a test stands still while the test computes, on a busy machine for longer than the 5 s
    # after which PostgreSQL ends an idle transaction of ours.
    if connection.vendor == "postgresql" and connection.in_atomic_block:
        connection.cursor().execute("SET LOCAL idle_in_transaction_session_timeout = 0")


def _belongs(item: pytest.Item, config: pytest.Config) -> bool:
    if item.get_closest_marker("long") and not config.option.long:
        return False
    if item.get_closest_marker("servers_only") and config.option.database == "sqlite":
        return False
    if config.option.database == "sqlite" or item.get_closest_marker("postgres"):
        return True
    if not config.option.long and (item.get_closest_marker("faults") or item.get_closest_marker("any_database")):
        return False
    return not item.get_closest_marker("browser") and _touches_a_database(item)


def _touches_a_database(item: pytest.Item) -> bool:
    from django.test import TransactionTestCase

    of_class = getattr(item, "cls", None)
    return bool(
        item.get_closest_marker("django_db")
        or DATABASE_FIXTURES & _fixtures(item)
        or (of_class and issubclass(of_class, TransactionTestCase))
    )


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def _is_for_tests(name: str) -> bool:
    return name.startswith("SWITCHBOARD_TEST_")


class BrowserTests:
    """Fail a run that requires browser tests and skipped them."""

    def __init__(self, config: pytest.Config) -> None:
        self.are_required = os.environ.get("SWITCHBOARD_TEST_REQUIRE_BROWSER") == "1"
        self.are_due = config.option.database == "sqlite"
        self.ran: set[str] = set()
        self.skipped: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "browser" not in report.keywords:
            return
        if report.skipped:
            self.skipped.add(report.nodeid)
        elif report.when == "call":
            self.ran.add(report.nodeid)

    @property
    def are_missed(self) -> bool:
        return self.are_required and self.are_due and (not self.ran or bool(self.skipped))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.are_missed and not session.config.option.collectonly and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.skipped or self.are_missed:
            terminalreporter.section("BROWSER TESTS DID NOT RUN", sep="!", red=True, bold=True)
            terminalreporter.write_line(
                f"{len(self.ran)} ran, {len(self.skipped)} were skipped. "
                "Install Chromium (`apt-get install chromium`, or `python -m playwright install chromium`).",
                red=True,
            )


# ---- Fixtures -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def database(pytestconfig: pytest.Config) -> str:
    """Which database this run is about: "sqlite" or "postgres"."""
    chosen: str = pytestconfig.option.database
    return chosen


@pytest.fixture(scope="session", autouse=True)
def _rows_are_deleted_after_a_test_that_commits() -> Iterator[None]:
    from django.test import TransactionTestCase

    from tests.support.database import delete_all_rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda _: delete_all_rows())
        yield


@pytest.fixture(autouse=True)
def _no_earlier_test_suspected_the_database() -> None:
    """A page looks whether the database takes writes, which takes statements, for a minute after a write has failed."""
    from integrations.models import storage

    storage._result, storage._suspected_at = None, float("-inf")


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    """PostgreSQL and Redis of this run, each started when first asked for; there on a SQLite run as well."""
    return pytestconfig.stash[SERVERS]


@pytest.fixture
def own_servers() -> Iterator[Servers]:
    """A PostgreSQL and a Redis that a test may take away without harm to the others."""
    ours = os.environ.get("SWITCHBOARD_TEST_RUN", "")
    servers = Servers()
    yield servers
    servers.close()
    os.environ["SWITCHBOARD_TEST_RUN"] = ours


@pytest.fixture
def start_receiver() -> Iterator[Callable[..., Receiver]]:
    """Starts as many receivers as a test wants: `start_receiver(tls=None)`."""
    started: list[Receiver] = []

    def start(**options: Any) -> Receiver:
        started.append(Receiver(**options).start())
        return started[-1]

    yield start
    for receiver in started:
        receiver.close()


@pytest.fixture
def sink(start_receiver: Callable[..., Receiver]) -> Receiver:
    """A real HTTP server on 127.0.0.1 that remembers its calls; see `Receiver`."""
    return start_receiver()


@pytest.fixture
def reachable_loopback(settings: Any) -> None:
    """Lets calls made in this process reach 127.0.0.0/8, which nothing may by default."""
    settings.ALLOW_PRIVATE = "127.0.0.0/8"


@pytest.fixture
def start_installation(tmp_path: Path, database: str, servers: Servers) -> Iterator[Callable[..., Installation]]:
    """Starts whole installations: `start_installation(*arguments of up, on=database, start=True, **environment)`;
    with `migrated=False` on an empty database."""
    made: list[Installation] = []

    def start_one(
        *arguments: str, on: str = database, start: bool = True, migrated: bool = True, **environment: str | None
    ) -> Installation:
        folder = tmp_path / f"installation-{len(made) + 1}"
        made.append(Installation(folder, servers, arguments, environment, on=on, migrated=migrated))
        return made[-1].start() if start else made[-1]

    yield start_one
    for one in made:
        one.close()


@pytest.fixture
def installation(start_installation: Callable[..., Installation]) -> Installation:
    """A running `manage.py up` on the database of this run, new for each test."""
    return start_installation()
