"""huey, two processes: `huey_consumer bench.apps.huey_app.app -w 2 -k process`."""

from __future__ import annotations

import os
from typing import Any

from huey import RedisHuey

from bench.apps.calls import post

app = RedisHuey("bench", url=os.environ["BENCH_BROKER"])
deliver: Any = app.task()(post)


@app.on_startup()
def say_ready() -> None:
    print("ready", flush=True)


def queue(number: int, body: str) -> None:
    deliver(number, body)
