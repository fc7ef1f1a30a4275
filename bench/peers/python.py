"""The Python queues, each with the settings that did best: workers for two cores, connections that are kept.

huey, dramatiq and celery keep queue and results in Redis, which keeps them in memory; procrastinate in PostgreSQL.
Their record of a call is the task's result (the message's number); procrastinate also keeps the job with its events.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any

from bench import dependencies
from bench.messages import body
from bench.peer import PostgresGround, PostgresPeer, RedisGround, RedisPeer
from bench.sink import Sink


class Huey(RedisPeer):
    name = "huey (2 processes)"
    family = "python"
    program = staticmethod(dependencies.python)
    app = "bench.apps.huey_app"
    arguments = ("-m", "huey.bin.huey_consumer", f"{app}.app", "-w", "2", "-k", "process", "-q", "-n")
    command = "huey_consumer -w 2 -k process, requests.Session"
    list_key = "huey.redis.bench"
    ready = 2
    share = 0.2

    def recorded(self, ground: RedisGround) -> int:
        return int(ground.broker.hlen("huey.results.bench"))

    def numbers(self, ground: RedisGround) -> Iterator[int]:
        values: Any = ground.broker.hvals("huey.results.bench")
        for value in values:
            yield pickle.loads(value)


class Dramatiq(RedisPeer):
    name = "dramatiq (2 processes of 8 threads)"
    family = "python"
    program = staticmethod(dependencies.python)
    app = "bench.apps.dramatiq_app"
    arguments = ("-m", "dramatiq", app, "-p", "2", "-t", "8")
    command = "dramatiq -p 2 -t 8, requests.Session"
    list_key = "dramatiq:bench"
    ready = 2
    share = 0.2

    def recorded(self, ground: RedisGround) -> int:
        return int(ground.results.dbsize())

    def numbers(self, ground: RedisGround) -> Iterator[int]:
        for key in ground.results.scan_iter():
            for value in ground.results.lrange(key, 0, -1):
                yield json.loads(value)


class Celery(RedisPeer):
    name = "celery (prefork 2)"
    family = "python"
    program = staticmethod(dependencies.python)
    app = "bench.apps.celery_app"
    arguments = ("-m", "celery", "-A", app, "worker", "-c", "2", "-l", "ERROR", "--without-gossip", "--without-mingle")
    command = "celery worker -c 2, prefetch 4, requests.Session"
    list_key = "bench"
    share = 0.1

    def recorded(self, ground: RedisGround) -> int:
        return int(ground.results.dbsize())

    def numbers(self, ground: RedisGround) -> Iterator[int]:
        for key in ground.results.scan_iter("celery-task-meta-*"):
            result = json.loads(ground.results.get(key) or "{}")
            if result.get("status") == "SUCCESS":
                yield result["result"]


class Procrastinate(PostgresPeer):
    name = "procrastinate (100 at once)"
    family = "python"
    program = staticmethod(dependencies.python)
    arguments = ("-m", "bench.apps.procrastinate_app")
    command = "procrastinate worker, concurrency 100, aiohttp, uvloop"
    share = 0.1

    def queue(self, ground: PostgresGround, sink: Sink, messages: int) -> None:
        ground.run(*self.arguments, "prepare")
        with ground.held.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES ('bench', 'deliver', %s)",
                [(json.dumps({"number": n, "body": body(n).decode()}),) for n in range(messages)],
            )

    def records(self, ground: PostgresGround) -> tuple[int, int]:
        jobs, numbers = ground.ask(
            "SELECT count(*), count(DISTINCT args->>'number') FROM procrastinate_jobs WHERE status = 'succeeded'"
        )
        return jobs, numbers


CONTENDERS = [Huey(), Dramatiq(), Celery(), Procrastinate()]
