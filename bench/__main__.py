"""Switchboard beside its peers: `make bench`, or `python -m bench [--rounds 5] [--messages 10000] [--only TEXT]`.

Each round runs every contender once on each database, in turn, so that a machine that gets slower gets slower for
all. A figure is the median of its accepted runs (checks.py says which are); ratios are between figures of one
invocation. Results also go to bench/results/ as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from bench import peers, switchboard
from bench.checks import Figure, Run, figures, rejections
from bench.contender import Contender
from bench.places import Place
from bench.sink import Sink
from dashboard.environment import use_safe_sqlite
from tests.backends import FSYNC, Servers

RESULTS = Path(__file__).with_name("results")
YARDSTICK = "django-q2 task per message"


def main() -> None:
    options = _options()
    use_safe_sqlite()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="switchboard-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        sink = Sink(folder)
        stack.callback(sink.close)
        contenders = [*switchboard.CONTENDERS, *peers.contenders()]
        wanted = [
            (contender, on)
            for on in ("sqlite", "postgres")
            for contender in contenders
            if all(word in f"{contender.name} on {on}" for word in options.only)
        ]
        places = _places(folder, {on for _, on in wanted}, stack)
        runs: list[Run] = []
        with suppress(KeyboardInterrupt):  # then the report is about what was run
            for number in range(options.rounds):
                for contender, on in wanted if number % 2 == 0 else reversed(wanted):
                    runs.append(_run(contender, places[on], sink, options.messages))
        _report(runs, sink)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender (default 5)")
    parser.add_argument("--messages", type=int, default=10_000, help="messages in a run (default 10000)")
    parser.add_argument("--only", nargs="*", default=[], help="words in a contender's name or database")
    return parser.parse_args()


def _places(folder: Path, wanted: set[str], stack: ExitStack) -> dict[str, Place]:
    places = {}
    for on in sorted(wanted):
        servers = None
        if on == "postgres":
            os.environ[FSYNC] = "1"
            servers = Servers()
            stack.callback(servers.close)
        places[on] = Place(on, folder / on, servers)
    return places


def _run(contender: Contender, place: Place, sink: Sink, messages: int) -> Run:
    database = place.fresh()
    run = contender.run(database, place.name, sink, max(1, int(messages * contender.share)))
    words = "; ".join(rejections(run))
    print(f"  {run.label:44}{run.rate:10,.0f}/s  {f'REJECTED: {words}' if words else ''}", flush=True)
    shutil.rmtree(database.folder, ignore_errors=True)
    return run


# ---- the report -----------------------------------------------------------------------------------------------------
def _report(runs: list[Run], sink: Sink) -> None:
    found = figures(runs)
    yardsticks = {figure.on: figure.rate for figure in found if figure.label.startswith(YARDSTICK)}
    print(f"\n{'median of the accepted runs':44}{'recorded/s':>12}{'ratio':>8}{'CPU µs':>9}{'peak MB':>9}{'idle %':>8}")
    for figure in found:
        print(_line(figure, yardsticks.get(figure.on)))
    print(
        "\nratio: to one django-q2 task per message on the same database; CPU µs: of its processes, for each message;"
    )
    print("peak MB: of its largest process; idle %: of one core, all its processes, started and nothing to do")
    for figure in found:
        print(f"  {figure.label}: {figure.runs[0].sent:,} messages, {figure.command}")
    print(f"written to {_write(runs, sink)}")


def _line(figure: Figure, yardstick: float | None) -> str:
    ratio = f"{figure.rate / yardstick:.1f}x" if yardstick else "-"
    facts = [figure.fact(name) for name in ("cpu_us_per_message", "peak_rss_mb", "idle_cpu_percent")]
    cpu, peak, idle = ("-" if fact is None else f"{fact:,.0f}" for fact in (facts[0], facts[1], None))
    idle = "-" if facts[2] is None else f"{facts[2]:.1f}"
    rejected = f"  {figure.rejected} rejected" if figure.rejected else ""
    return f"{figure.label:44}{figure.rate:12,.0f}{ratio:>8}{cpu:>9}{peak:>9}{idle:>8}{rejected}"


def _write(runs: list[Run], sink: Sink) -> Path:
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    path = RESULTS / f"{now:%Y-%m-%dT%H%M%S}.json"
    path.write_text(
        json.dumps({"at": now.isoformat(), **_machine(sink), "runs": [r.as_json() for r in runs]}, indent=1)
    )
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _machine(sink: Sink) -> dict[str, Any]:
    import sqlite3

    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "load_at_end": os.getloadavg()[0],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "sink": sink.kind,
        "packages": {name: version(name) for name in ("django", "django-q2", "httpx", "httptools", "psycopg")},
    }


if __name__ == "__main__":
    main()
