"""Switchboard beside its peers: `make bench`, or `python -m bench [--rounds 5] [--messages 10000] [--only TEXT]`.

Each round runs every contender once on each database, in turn, so that a machine that gets slower gets slower for
all. A figure is the median of its accepted runs (checks.py says which are); ratios are between figures of one
invocation. `python -m bench scenarios` runs the other measurements (scenarios/). Results also go to bench/results/ as
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from bench import peers, scenarios, switchboard
from bench.checks import Figure, Run, figures, rejections
from bench.contender import Contender
from bench.places import DATABASES, Site
from bench.scenarios import quiet
from dashboard.environment import use_safe_sqlite

RESULTS = Path(__file__).with_name("results")
YARDSTICK = "django-q2 task per message"


def main() -> None:
    use_safe_sqlite()
    with Site() as site:
        if sys.argv[1:2] == ["scenarios"]:
            _run_scenarios(site)
        else:
            _run_contenders(site)


def _run_contenders(site: Site) -> None:
    options = _options()
    wanted = [
        (contender, on)
        for on in DATABASES
        for contender in [*switchboard.CONTENDERS, *peers.contenders()]
        if all(word in f"{contender.name} on {on}" for word in options.only)
    ]
    runs: list[Run] = []
    with suppress(KeyboardInterrupt):  # then the report is about what was run
        for number in range(options.rounds):
            for contender, on in wanted if number % 2 == 0 else reversed(wanted):
                runs.append(_run(contender, site, on, options.messages))
    _report(runs, site)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender (default 5)")
    parser.add_argument("--messages", type=int, default=10_000, help="messages in a run (default 10000)")
    parser.add_argument("--only", nargs="*", default=[], help="words in a contender's name or database")
    return parser.parse_args()


def _run_scenarios(site: Site) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench scenarios", description=scenarios.__doc__.partition("\n")[0])
    scenarios.add_arguments(parser)
    options = parser.parse_args(sys.argv[2:])
    found: dict[str, Any] = {}
    with suppress(KeyboardInterrupt):
        for name in options.names or scenarios.names():
            found[name] = scenarios.run(name, scenarios.Options(site, tuple(options.on), options.scale))
    missed = sum(len(one.get("missed", [])) for one in found.values())
    print(f"\n{len(found)} scenarios, {missed} bounds missed")
    print(f"written to {_write(site, {'scale': options.scale, 'scenarios': found})}")


def _run(contender: Contender, site: Site, on: str, messages: int) -> Run:
    database = site.fresh(on)
    with quiet():
        run = contender.run(database, on, site.sink, max(1, int(messages * contender.share)))
    words = "; ".join(rejections(run))
    print(f"  {run.label:44}{run.rate:10,.0f}/s  {f'REJECTED: {words}' if words else ''}", flush=True)
    shutil.rmtree(database.folder, ignore_errors=True)
    return run


# ---- the report -----------------------------------------------------------------------------------------------------
def _report(runs: list[Run], site: Site) -> None:
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
    print(f"written to {_write(site, {'runs': [run.as_json() for run in runs]})}")


def _line(figure: Figure, yardstick: float | None) -> str:
    ratio = f"{figure.rate / yardstick:.1f}x" if yardstick else "-"
    facts = [figure.fact(name) for name in ("cpu_us_per_message", "peak_rss_mb", "idle_cpu_percent")]
    cpu, peak, idle = ("-" if fact is None else f"{fact:,.0f}" for fact in (facts[0], facts[1], None))
    idle = "-" if facts[2] is None else f"{facts[2]:.1f}"
    rejected = f"  {figure.rejected} rejected" if figure.rejected else ""
    return f"{figure.label:44}{figure.rate:12,.0f}{ratio:>8}{cpu:>9}{peak:>9}{idle:>8}{rejected}"


def _write(site: Site, found: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    path = RESULTS / f"{now:%Y-%m-%dT%H%M%S}.json"
    path.write_text(json.dumps({"at": now.isoformat(), **_machine(site), **found}, indent=1))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _machine(site: Site) -> dict[str, Any]:
    import sqlite3

    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "load_at_end": os.getloadavg()[0],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "sink": site.sink.kind,
        "packages": {name: version(name) for name in ("django", "django-q2", "httpx", "httptools", "psycopg")},
    }


if __name__ == "__main__":
    main()
