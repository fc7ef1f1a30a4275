"""Common parts of the peers: programs of their own (apps/), and messages kept in Redis or PostgreSQL.

A peer sends the same bodies to the same sink, and each call's result is recorded where the peer keeps such things. Its
queue is filled before its workers start, and hidden from them until the clock starts.
"""

from __future__ import annotations

import subprocess
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import psycopg
import redis
from psycopg.conninfo import conninfo_to_dict

from bench import dependencies
from bench.contender import Contender, G, wait_for
from bench.places import Ground, Site
from bench.sink import Sink
from tests.support.backends import ROOT
from tests.support.installation import clean_environment


class Peer(Contender[G]):
    """A contender with a program of its own, which prints "ready" from each of its processes."""

    program: Any  # a function of dependencies.py
    arguments: tuple[str, ...]  # of its workers
    ready = 1  # how many times it says so
    keeps_state = False

    def missing(self) -> str:
        try:
            self.program()
        except dependencies.Unavailable as error:
            return str(error)
        return ""

    def start(self, ground: G) -> subprocess.Popen[bytes]:
        return ground.start(*self.arguments)

    def wait_until_ready(self, ground: G, process: subprocess.Popen[bytes]) -> None:
        wait_for(lambda: ground.output.splitlines().count("ready") >= self.ready, process, ground)


def _environment(site: Site) -> dict[str, str]:
    return clean_environment() | {"PYTHONPATH": str(ROOT), "BENCH_SINK": f"{site.sink.url}/hook"}


# ---- in Redis -------------------------------------------------------------------------------------------------------
class RedisGround(Ground):
    """Two empty databases of a real Redis, in memory alone: one for the queue, one for results kept apart from it."""

    def __init__(self, site: Site, program: str) -> None:
        broker, results = site.servers.new_redis_database(), site.servers.new_redis_database()
        env = _environment(site) | {"BENCH_BROKER": broker, "BENCH_RESULTS": results}
        super().__init__(site.new_folder(), env, program)
        self.broker, self.results = redis.Redis.from_url(broker), redis.Redis.from_url(results)

    def close(self) -> None:
        for database in (self.broker, self.results):
            database.flushdb()
            database.close()
        super().close()


class RedisPeer(Peer[RedisGround]):
    stores = ("redis",)
    app: str
    list_key: str  # the list of waiting messages; renaming hides it
    HIDDEN = "hidden"

    def prepare(self, site: Site, on: str) -> RedisGround:
        return RedisGround(site, type(self).program())

    def queue(self, ground: RedisGround, sink: Sink, messages: int) -> None:
        ground.run("-m", "bench.apps.queue", self.app, str(messages))
        ground.broker.rename(self.list_key, self.HIDDEN)

    def release(self, ground: RedisGround, process: subprocess.Popen[bytes]) -> None:
        ground.broker.rename(self.HIDDEN, self.list_key)

    def records(self, ground: RedisGround) -> tuple[int, int]:
        numbers = list(self.numbers(ground))
        return len(numbers), len(set(numbers))

    @abstractmethod
    def numbers(self, ground: RedisGround) -> Iterable[Any]:
        """The number in each result."""


# ---- in PostgreSQL --------------------------------------------------------------------------------------------------
class PostgresGround(Ground):
    """An empty PostgreSQL database, and a transaction in which messages are queued and not yet to be seen."""

    def __init__(self, site: Site, program: str) -> None:
        url = site.servers.new_postgres_database()
        names = {"host": "PGHOST", "user": "PGUSER", "dbname": "PGDATABASE"}
        env = {names[name]: str(value) for name, value in conninfo_to_dict(url).items() if name in names}
        super().__init__(site.new_folder(), _environment(site) | env | {"BENCH_DATABASE": url}, program)
        self.messages = 0  # how many are queued
        self.held = psycopg.connect(url)
        self._connection = psycopg.connect(url, autocommit=True)

    def ask(self, statement: str) -> list[int]:
        """Runs a statement and answers its row."""
        cursor = self._connection.execute(statement)
        return list((cursor.fetchone() if cursor.description else None) or ())

    def close(self) -> None:
        self.held.close()
        self._connection.close()
        super().close()


class PostgresPeer(Peer[PostgresGround]):
    stores = ("postgres",)

    def prepare(self, site: Site, on: str) -> PostgresGround:
        return PostgresGround(site, type(self).program())

    def release(self, ground: PostgresGround, process: subprocess.Popen[bytes]) -> None:
        ground.held.commit()
