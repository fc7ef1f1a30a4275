"""The databases the suite claims to run on are really there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from django.conf import settings
from django.db import connection

from tests.support.backends import ROOT, Servers
from tests.support.waiting import until

pytestmark = pytest.mark.slow

# Stands in for a test run: starts both servers and a stray, says where they are, and waits to be killed.
RUN = """
import subprocess, sys, time
from tests.support.backends import Servers
servers = Servers()
servers.postgres_url(), servers.redis_url()
stray = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(servers.folder, stray.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.django_db
def test_the_database_is_the_one_this_run_is_about(database: str) -> None:
    with connection.cursor() as cursor:
        if database == "postgres":
            cursor.execute("SELECT version()")
            assert cursor.fetchone()[0].startswith("PostgreSQL 18")
        else:
            cursor.execute("PRAGMA journal_mode")
            assert cursor.fetchone() == ("wal",)
            cursor.execute("PRAGMA synchronous")
            assert cursor.fetchone() == (2,), "FULL: an accepted message outlives a power cut"
            assert Path(connection.settings_dict["NAME"]).is_file(), "several processes look at it"


def test_redis_is_there_when_the_run_is_on_postgres(database: str) -> None:
    if database == "postgres":
        assert redis.Redis.from_url(settings.REDIS_URL).ping()
    else:
        assert not settings.REDIS_URL


def test_every_installation_gets_databases_of_its_own(servers: Servers) -> None:
    first, second = servers.new_postgres_database(), servers.new_postgres_database()
    with psycopg.connect(first) as one, psycopg.connect(second) as other:
        one.execute("CREATE TABLE mine (id int)")
        one.commit()
        assert other.execute("SELECT to_regclass('mine')").fetchone() == (None,)
        assert one.execute("SHOW max_connections").fetchone() == ("100",)
    here = redis.Redis.from_url(servers.new_redis_database())
    there = redis.Redis.from_url(servers.new_redis_database())
    here.set("mine", 1)
    assert there.get("mine") is None


def test_servers_come_back_with_what_was_committed(own_servers: Servers) -> None:
    url = own_servers.postgres_url()
    with psycopg.connect(url) as before:
        before.execute("CREATE TABLE kept (id int)")
    own_servers.stop("postgres")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    own_servers.start("postgres")
    with psycopg.connect(url) as after:
        assert after.execute("SELECT count(*) FROM kept").fetchone() == (0,)

    client = redis.Redis.from_url(own_servers.redis_url())
    assert client.ping()
    own_servers.stop("redis")
    with pytest.raises(redis.ConnectionError):
        client.ping()
    own_servers.start("redis")
    assert client.ping()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_test_run_that_dies_leaves_nothing_behind(ending: signal.Signals) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # A shell that runs us in the background has SIGINT ignored, and so would the run.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert run.stdout
    folder, stray = run.stdout.readline().decode().split()
    run.send_signal(ending)
    run.wait(timeout=40)
    until(lambda: not Path(folder).exists(), words="its folder is removed")
    until(lambda: not is_running(int(stray)), words="its stray process is ended")
    until(lambda: not named_in_a_command_line(folder), words="its servers and the guardian are gone")


def named_in_a_command_line(folder: str) -> bool:
    return any(folder in " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{pid}/status").read_text() if Path("/proc").exists() else True
