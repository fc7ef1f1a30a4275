"""Switchboard behind PgBouncer. Its clients get few sessions of the server, so that they really share them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from dashboard.settings import _postgres
from integrations import wakeup
from integrations.backups import postgres
from integrations.backups.errors import BackupError
from integrations.management.commands.doctor import check_results
from integrations.models import Service, pooler, sql
from integrations.postgresql.base import DatabaseWrapper
from tests.faults.traffic import Traffic
from tests.support.backends import ROOT, Servers, postgres_programs
from tests.support.installation import Installation, clean_environment
from tests.support.pooler import Pooler
from tests.support.receiver import Receiver

pytestmark = [pytest.mark.servers_only, pytest.mark.postgres]

SHARED = 4  # sessions for a console and two lanes of three threads each


@pytest.fixture
def start_pooler(servers: Servers) -> Iterator[Callable[..., Pooler]]:
    started: list[Pooler] = []

    def start(mode: str, size: int = 40) -> Pooler:
        started.append(Pooler(servers, mode, size))
        return started[-1]

    yield start
    for one in started:
        one.close()


@contextmanager
def connected(url: str, alias: str = "default") -> Iterator[DatabaseWrapper]:
    """This thread's connection by another way."""
    usual = connections[alias]
    wrapper = DatabaseWrapper({**usual.settings_dict, **_postgres(url)}, alias)
    connections[alias] = wrapper
    try:
        yield wrapper
    finally:
        wrapper.close()
        connections[alias] = usual


def direct_url(servers: Servers) -> str:
    return servers.postgres_url(str(connections["default"].settings_dict["NAME"]))


def ask(wrapper: DatabaseWrapper, statement: str) -> Any:
    with wrapper.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


# ---- one connection -------------------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_a_session_of_our_own_is_told_our_timeouts_and_a_poolers_nothing(
    servers: Servers, start_pooler: Callable[..., Pooler]
) -> None:
    shown = "SHOW idle_in_transaction_session_timeout"
    with connected(direct_url(servers)) as wrapper:
        assert ask(wrapper, shown) == "5s"
        assert not wrapper.is_pooled
    with connected(f"{direct_url(servers)}?options=-c%20idle_in_transaction_session_timeout%3D9s") as wrapper:
        assert ask(wrapper, shown) == "9s"
    for mode in ("session", "transaction"):
        with connected(start_pooler(mode).url(direct_url(servers))) as wrapper:
            assert ask(wrapper, shown) == "0"
            assert wrapper.is_pooled


@pytest.mark.django_db(transaction=True)
def test_nothing_of_ours_stays_in_a_session_that_others_use(
    servers: Servers, start_pooler: Callable[..., Pooler]
) -> None:
    Service.objects.bulk_create([Service(name=f"s{number}", base_url="http://a.test") for number in range(30)])
    url = start_pooler("transaction", size=1).url(direct_url(servers))
    with connected(url) as ours:
        ours.ensure_connection()
        sql.limit_lock_waits()
        ours.set_autocommit(False)
        assert ask(ours, "SHOW lock_timeout") == "500ms"
        assert ask(ours, "SHOW idle_in_transaction_session_timeout") == "5s"
        ours.commit()
        ours.set_autocommit(True)
        for _ in range(6):
            with sql.prepared() as cursor:
                cursor.execute("SELECT %s::int", [1])
        assert len(list(Service.objects.iterator(chunk_size=7))) == 30
        others = DatabaseWrapper(ours.settings_dict, "default")
        try:
            assert ask(others, "SELECT pg_backend_pid()") == ask(ours, "SELECT pg_backend_pid()"), "they share it"
            assert ask(others, "SHOW lock_timeout") == "0"
            assert ask(others, "SHOW idle_in_transaction_session_timeout") == "0"
            assert ask(others, "SELECT count(*) FROM pg_prepared_statements") == 0
            assert ask(others, "SELECT count(*) FROM pg_cursors WHERE name <> ''") == 0
        finally:
            others.close()


# ---- refusals and warnings ------------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_a_way_that_cannot_work_is_refused_in_one_line(
    servers: Servers, start_pooler: Callable[..., Pooler], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup, "ARRIVES_WITHIN", 0.3)
    direct = direct_url(servers)
    with connected(start_pooler("statement").url(direct)):
        assert "pool_mode = statement" in pooler.refusal()
        with pytest.raises(CommandError, match=r"^[^\n]*pool_mode = statement[^\n]*$"):
            call_command("up", "--no-web")
    behind = start_pooler("transaction").url(direct)
    with connected(behind):
        assert pooler.refusal() == ""
        for wrong, said in {
            behind: "leads to a pooler",
            servers.new_postgres_database(): "does not lead to the database of",
            servers.postgres_url("nowhere"): "cannot be opened",
        }.items():
            settings.DIRECT_DATABASE = _postgres(wrong)
            assert said in pooler.refusal(), wrong
        settings.DIRECT_DATABASE = _postgres(direct)
        assert pooler.refusal() == ""


@pytest.mark.django_db(transaction=True)
def test_doctor_says_what_a_pooler_takes_away_and_that_a_notify_arrives(
    servers: Servers, start_pooler: Callable[..., Pooler], settings: Any, client: Any, tmp_path: Any
) -> None:
    direct = direct_url(servers)
    with connected(start_pooler("transaction").url(direct)):
        said = "\n".join(map(str, check_results()))
        assert "warn: a pooler stands before PostgreSQL" in said
        assert 'ALTER ROLE "postgres" IN DATABASE' in said
        assert "NOTIFY" not in said
        assert "up to 0.25 s longer" in client.get("/readyz").json()["note"]
        with pytest.raises(BackupError, match="SWITCHBOARD_DATABASE_DIRECT_URL"):
            postgres.copy_to(tmp_path)
        settings.DIRECT_DATABASE = _postgres(direct)
        said = "\n".join(map(str, check_results()))
        assert "ok: a NOTIFY wakes a listener" in said
        assert "a pooler stands" not in said
        assert "note" not in client.get("/readyz").json()
        with sql.directly():
            assert not sql.is_pooled()
        assert sql.is_pooled()


@pytest.mark.django_db(transaction=True)
def test_a_backup_and_the_migrations_go_past_the_pooler(
    servers: Servers,
    start_pooler: Callable[..., Pooler],
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pg_dump sets the search path of its session: through the pooler, another client would find no table."""
    monkeypatch.setenv("PATH", f"{postgres_programs()}{os.pathsep}{os.environ['PATH']}")
    direct = direct_url(servers)
    url = start_pooler("transaction", size=1).url(direct)
    settings.DIRECT_DATABASE = _postgres(direct)
    Service.objects.create(name="billing", base_url="http://a.test")
    with connected(url) as wrapper:
        postgres.copy_to(tmp_path)
        assert (tmp_path / postgres.NAME).stat().st_size > 0
        call_command("migrate", verbosity=0)
        assert ask(wrapper, "SHOW search_path") == '"$user", public'
        assert Service.objects.count() == 1
        assert wrapper.is_pooled


# ---- a whole installation -------------------------------------------------------------------------------------------
def behind(made: Installation, bouncer: Pooler, *, is_direct: bool) -> Installation:
    """Put a pooler before an installation that has not been started."""
    url = made.env["SWITCHBOARD_DATABASE_URL"]
    made.env["SWITCHBOARD_DATABASE_URL"] = bouncer.url(url)
    if is_direct:
        made.env["SWITCHBOARD_DATABASE_DIRECT_URL"] = url
    return made.start()


def deliver(installation: Installation, sink: Receiver, messages: int) -> Traffic:
    """Accept messages in batches and wait until each has arrived once."""
    traffic = Traffic(installation, sink)
    with installation.api() as api:
        for begin in range(0, messages, 100):
            wanted = [
                {"service": "billing", "path": "/orders", "body": {"order": number}}
                for number in range(begin, begin + 100)
            ]
            answer = api.post("messages/batch", json={"messages": wanted})
            assert answer.status_code == 200, answer.text[:500]
            traffic.accepted += [item["id"] for item in answer.json()["accepted"]]
    sink.wait_for(messages, timeout=60)
    traffic.wait_until_ended()
    traffic.check()
    return traffic


def latencies(places: dict[str, tuple[Installation, Receiver]], count: int = 40) -> dict[str, float]:
    """The median of the seconds from a request to the call of its message, one message at a time and by turns: what
    else the machine does slows all of them."""
    found: dict[str, list[float]] = {name: [] for name in places}
    with ExitStack() as opened:
        clients = {name: opened.enter_context(installation.api()) for name, (installation, _) in places.items()}
        for number in range(count):
            for name, (_, sink) in places.items():
                began = time.time()
                wanted = {"service": "billing", "path": "/orders", "body": {"order": f"single {number}"}}
                sent = clients[name].post("messages", json=wanted).json()["id"]
                sink.wait_until(partial(_has, sink, sent))
                found[name].append(sink.last.at - began)
    return {name: median(seconds) for name, seconds in found.items()}


def _has(sink: Receiver, sent: str) -> bool:
    return sink.last.header("webhook-id") == sent


def test_messages_are_delivered_through_sessions_that_all_processes_share(
    start_installation: Callable[..., Installation], start_pooler: Callable[..., Pooler], sink: Receiver
) -> None:
    """The short form: prepared statements met another client's, and all stood still with everything green."""
    installation = behind(start_installation(start=False), start_pooler("transaction", SHARED), is_direct=True)
    deliver(installation, sink, 300)
    for complaint in ("wake-ups", "error=", "Traceback"):
        assert complaint not in installation.log


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_pooler_costs_no_message_and_little_time(
    mode: str,
    start_installation: Callable[..., Installation],
    start_pooler: Callable[..., Pooler],
    start_receiver: Callable[..., Receiver],
) -> None:
    bouncer = start_pooler(mode, SHARED if mode == "transaction" else 40)
    installations = {
        "direct": start_installation(),
        "pooled": behind(start_installation(start=False), bouncer, is_direct=True),
        "polling": behind(start_installation(start=False), bouncer, is_direct=False),
    }
    places = {name: (installation, start_receiver()) for name, installation in installations.items()}
    for name, (installation, receiver) in places.items():
        deliver(installation, receiver, 1000)
        assert "error=" not in installation.log
        assert ("wake-ups off" in installation.log) == (name == "polling")
    took = latencies(places)
    print(mode, {name: f"{seconds * 1000:.1f} ms" for name, seconds in took.items()})
    assert took["pooled"] <= 2 * took["direct"], took
    assert took["polling"] <= took["direct"] + 0.3, took


@pytest.mark.long
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_the_journey_behind_a_pooler(mode: str) -> None:
    """`--pooler` runs any tests like this, without a direct URL."""
    chosen = ["tests/test_journey.py", "tests/api/test_messages.py", "tests/workers/test_locks.py"]
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--database", "postgres", "--pooler", mode]
    done = subprocess.run(
        [*run, *chosen], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
