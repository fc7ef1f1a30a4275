"""The Node queues, one process each: two of either were slower on two cores.

BullMQ keeps queue and results in Redis, which keeps them in memory. graphile-worker deletes a job that is done, so it
runs twice: as it is, and with a task that inserts a row with what Switchboard's attempt row holds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

from bench import dependencies
from bench.messages import body
from bench.peer import PostgresGround, PostgresPeer, RedisGround, RedisPeer
from bench.sink import Sink

ATTEMPT_TABLE = """
CREATE TABLE attempt (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    number bigint NOT NULL,
    try integer NOT NULL,
    cause text NOT NULL,
    started_at timestamptz NOT NULL,
    duration double precision NOT NULL,
    outcome text NOT NULL,
    status_code integer,
    method text NOT NULL,
    url text NOT NULL,
    request_headers jsonb NOT NULL,
    request_size integer NOT NULL,
    response_headers jsonb NOT NULL,
    response_body bytea NOT NULL,
    response_size integer NOT NULL
);
CREATE INDEX attempt_of_message ON attempt (number)
"""
QUEUE = """
SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
    SELECT ('deliver', payload::json, null, null, null, null, null, null)::graphile_worker.job_spec
    FROM unnest(%s::text[]) payload
))
"""
BATCH = 1_000


class BullMQ(RedisPeer):
    name = "BullMQ (results in Redis memory)"
    family = "node"
    program = staticmethod(dependencies.node)
    arguments = ("bench/apps/bullmq.mjs", "work")
    command = "BullMQ, concurrency 100, undici"

    def queue(self, ground: RedisGround, sink: Sink, messages: int) -> None:
        ground.run("bench/apps/bullmq.mjs", "queue", str(messages))

    def release(self, ground: RedisGround, process: subprocess.Popen[bytes]) -> None:
        os.kill(process.pid, signal.SIGUSR2)

    def recorded(self, ground: RedisGround) -> int:
        return int(ground.broker.zcard("bull:bench:completed"))

    def numbers(self, ground: RedisGround) -> Iterator[bytes | None]:
        broker: Any = ground.broker
        for job in broker.zrange("bull:bench:completed", 0, -1):
            yield broker.hget(f"bull:bench:{job.decode()}", "returnvalue")


class Graphile(PostgresPeer):
    name = "graphile-worker (keeps nothing)"
    family = "node"
    program = staticmethod(dependencies.node)
    arguments: tuple[str, ...] = ("bench/apps/graphile.mjs", "work")
    command = "graphile-worker, concurrency 100, local queue 500, batched completion, undici"

    def queue(self, ground: PostgresGround, sink: Sink, messages: int) -> None:
        ground.run("bench/apps/graphile.mjs", "prepare")
        ground.messages = messages
        with ground.held.cursor() as cursor:
            for first in range(0, messages, BATCH):  # add_job for each would take half a minute
                numbers = range(first, min(first + BATCH, messages))
                cursor.execute(QUEUE, [[json.dumps({"number": n, "body": body(n).decode()}) for n in numbers]])

    def records(self, ground: PostgresGround) -> tuple[int, int]:
        """Count the missing jobs as done: a job that fails stays."""
        done = ground.messages - ground.ask("SELECT count(*) FROM graphile_worker._private_jobs")[0]
        return done, done


class GraphileThatRecords(Graphile):
    name = "graphile-worker (inserts attempt rows)"
    arguments = (*Graphile.arguments, "record")
    command = f"{Graphile.command}, one INSERT for each call"

    def queue(self, ground: PostgresGround, sink: Sink, messages: int) -> None:
        ground.ask(ATTEMPT_TABLE)
        super().queue(ground, sink, messages)

    def records(self, ground: PostgresGround) -> tuple[int, int]:
        done, _ = super().records(ground)
        rows, numbers = ground.ask("SELECT count(*), count(DISTINCT number) FROM attempt WHERE outcome = 'succeeded'")
        return min(done, rows), numbers


CONTENDERS = [BullMQ(), Graphile(), GraphileThatRecords()]
