"""Where one pump's time goes: `python -m bench.stages [--on postgres] [--messages 10000] [--profile own|cumulative]`.

Times each stage by the CPU clock of the thread it runs in, which neighbours on the machine disturb least. With
`--profile` the functions are listed as well; the profiler roughly doubles the time, so its run gives shares only.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import os
import pstats
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.places import Place
from bench.sink import Sink
from dashboard.environment import use_safe_sqlite
from tests.support.backends import FSYNC, ROOT, Servers

STAGES = ("claim", "settle", "sweep")
LISTED = 15


def main() -> None:
    options = _options()
    if options.inside:
        _drain(options)
        return
    use_safe_sqlite()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="switchboard-stages-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        sink = Sink(folder)
        stack.callback(sink.close)
        servers = None
        if options.on == "postgres":
            os.environ[FSYNC] = "1"
            servers = Servers()
            stack.callback(servers.close)
        database = Place(options.on, folder / options.on, servers).fresh()
        database.run("-m", "bench.prepare", str(options.messages), sink.url)
        subprocess.run(
            [sys.executable, "-m", "bench.stages", "--inside", *sys.argv[1:]],
            cwd=ROOT,
            env=database.env,
            stderr=subprocess.DEVNULL,  # a line for each attempt
            check=True,
        )
        print(f"sink: {sink.counts()[1]:,} different messages")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=__doc__.partition("\n")[0])
    parser.add_argument("--on", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--profile", choices=("own", "cumulative"), help="list functions, too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- in the pump's process ------------------------------------------------------------------------------------------
def _drain(options: argparse.Namespace) -> None:
    import django

    django.setup()
    from integrations import delivery
    from integrations.models import Message, Service
    from integrations.workers import housekeeping
    from integrations.workers.pump import Pump, freeze_startup_objects, new_loop

    freeze_startup_objects()
    spent: Counter[str] = Counter()
    rooms = {"claim": delivery, "settle": delivery, "sweep": housekeeping}
    for name in STAGES:
        setattr(rooms[name], name, _timed(name, getattr(rooms[name], name), spent))
    if options.profile:
        _profile_database_thread(profiles := [cProfile.Profile(), cProfile.Profile()])
        profiles[0].enable()
    Service.objects.update(status="active")
    wall, loop, process = time.perf_counter(), time.thread_time(), time.process_time()

    async def drain() -> None:
        pump = Pump("stages")
        await pump.run(until_idle=True)
        await pump.close()

    new_loop().run_until_complete(drain())
    wall, loop, process = time.perf_counter() - wall, time.thread_time() - loop, time.process_time() - process
    count = Message.objects.filter(status="delivered").count()
    print(f"{options.on}: {count:,} delivered in {wall:.2f} s = {count / wall:,.0f}/s; µs a message (batches):")
    rows = [("whole process, CPU", process, ""), ("loop: send, transport, tasks, CPU", loop, "")]
    for name in STAGES:
        calls = spent[f"{name} calls"]
        rows.append((f"{name}, CPU", spent[name], f"{calls} calls"))
        rows.append((f"{name}, wall", spent[f"{name} wall"], ""))
    for words, seconds, note in rows:
        print(f"  {words:36}{seconds / count * 1e6:9.1f}  {note}")
    if options.profile:
        profiles[0].disable()
        for words, profile in zip(("loop thread", "database thread"), profiles, strict=True):
            print(f"---- {words}")
            order = {"own": "tottime", "cumulative": "cumtime"}[options.profile]
            pstats.Stats(profile).strip_dirs().sort_stats(order).print_stats(LISTED)


def _timed(name: str, step: Callable[..., Any], spent: Counter[str]) -> Callable[..., Any]:
    @functools.wraps(step)
    def timed(*args: Any) -> Any:
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            return step(*args)
        finally:
            spent[name] += time.thread_time() - cpu  # type: ignore[assignment]
            spent[f"{name} wall"] += time.perf_counter() - wall  # type: ignore[assignment]
            spent[f"{name} calls"] += 1

    return timed


def _profile_database_thread(profiles: list[cProfile.Profile]) -> None:
    """The pump's database work, whichever step it is, under the second profile."""
    from integrations.workers.pump import Pump

    original = Pump._in_database

    async def profiled(self: Any, step: Callable[..., Any], *args: object) -> Any:
        return await original(self, profiles[1].runcall, step, *args)

    Pump._in_database = profiled  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
