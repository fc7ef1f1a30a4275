"""Switchboard against other queues: `make bench`, or `python -m bench [--rounds 5] [--messages 20000] [--only TEXT]`.

Each round runs every contender once on each database, in turn, so that a machine that gets slower gets slower for
all. A figure is the median of its accepted runs (checks.py says which are); ratios are between figures of one
invocation. `python -m bench scenarios` runs the other measurements (scenarios/). Results also go to bench/results/ as
JSON, and `python -m bench report FILE …` makes one table of several such files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from bench import peers, report, scenarios, switchboard
from bench.checks import PEERS, Run, figures, rejections
from bench.contender import Contender
from bench.places import Site
from bench.scenarios import quiet
from dashboard.environment import use_safe_sqlite

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    use_safe_sqlite()
    with Site() as site:
        if sys.argv[1:2] == ["scenarios"]:
            _run_scenarios(site)
        elif sys.argv[1:2] == ["report"]:
            report.show(figures([run for path in sys.argv[2:] for run in stored(Path(path))]))
        else:
            _run_contenders(site)


def _run_contenders(site: Site) -> None:
    options = _options()
    known = [*switchboard.CONTENDERS, *peers.contenders()]
    wanted = [
        (contender, on)
        for on in dict.fromkeys(on for contender in known for on in contender.stores)
        for contender in known
        if on in contender.stores and all(word in f"{contender.name} on {on}" for word in options.only)
    ]
    runs, left_out = rounds(wanted, options.rounds, lambda contender, on: _run(contender, site, on, options.messages))
    for name, words in left_out.items():
        print(f"left out: {name}: {words}")
    report.show(figures(runs))
    print(f"written to {_write(site, {'runs': [run.as_json() for run in runs], 'left_out': left_out})}")


def rounds(
    wanted: list[tuple[Contender[Any], str]], number: int, run: Callable[[Contender[Any], str], Run]
) -> tuple[list[Run], dict[str, str]]:
    """Runs each so many times, in turn and back again; also answers which peers were left out, and why.

    Ctrl-C ends it: then the report is about what was run.
    """
    left_out = {contender.name: words for contender, _ in wanted if (words := contender.missing())}
    runs: list[Run] = []
    with suppress(KeyboardInterrupt):
        for turn in range(number):
            print(f"round {turn + 1} of {number}", flush=True)
            for contender, on in wanted if turn % 2 == 0 else reversed(wanted):
                if contender.name in left_out:
                    continue
                try:
                    runs.append(run(contender, on))
                except Exception as error:
                    if contender.family not in PEERS:
                        raise
                    left_out[contender.name] = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return runs, left_out


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender (default 5)")
    parser.add_argument("--messages", type=int, default=20_000, help="messages in a run (default 20000)")
    parser.add_argument("--only", nargs="*", default=[], help="words in a contender's name or database")
    return parser.parse_args()


def stored(path: Path) -> list[Run]:
    """The runs in a file of an earlier invocation."""
    names = {field.name for field in fields(Run)}
    return [
        Run(**{name: value for name, value in run.items() if name in names})
        for run in json.loads(path.read_text()).get("runs", [])
    ]


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


def _run(contender: Contender[Any], site: Site, on: str, messages: int) -> Run:
    ground = contender.prepare(site, on)
    try:
        with quiet():
            run = contender.run(ground, on, site.sink, max(1, int(messages * contender.share)))
    finally:
        ground.close()
    words = "; ".join(rejections(run))
    print(f"  {run.label:48}{run.rate:10,.0f}/s  {f'REJECTED: {words}' if words else ''}", flush=True)
    return run


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
