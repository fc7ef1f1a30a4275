"""celery, two prefork processes: `celery -A bench.apps.celery_app worker -c 2`."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals

from bench.apps.calls import post


def _celery_url(url: str) -> str:
    """redis-py's unix://path?db=3 in celery's words."""
    return url.replace("unix://", "redis+socket://").replace("?db=", "?virtual_host=")


app = Celery("bench", broker=_celery_url(os.environ["BENCH_BROKER"]), backend=_celery_url(os.environ["BENCH_RESULTS"]))
app.conf.update(
    task_default_queue="bench",
    worker_prefetch_multiplier=4,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
)
deliver: Any = app.task(name="deliver")(post)


@signals.worker_ready.connect
def say_ready(**_: object) -> None:
    print("ready", flush=True)


def queue(number: int, body: str) -> None:
    deliver.delay(number, body)
