"""dramatiq, two processes of eight threads: `dramatiq bench.apps.dramatiq_app -p 2 -t 8`."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.apps.calls import post


class SayReady(Middleware):
    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        print("ready", flush=True)


broker = RedisBroker(url=os.environ["BENCH_BROKER"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_RESULTS"])))
broker.add_middleware(SayReady())
dramatiq.set_broker(broker)
deliver: Any = dramatiq.actor(store_results=True, queue_name="bench")(post)


def queue(number: int, body: str) -> None:
    deliver.send(number, body)
