"""Long forms of the proofs of the suite: `python -m bench scenarios [NAME …] [--on sqlite] [--scale 0.1]`.

A scenario is a module here, found by its name; the first line of its docstring is the title that is printed:

    \"\"\"Ingest: POST /messages against a bare view that makes one insert.\"\"\"

    def run(options: Options) -> dict[str, Any]:
        for on in options.databases:                        # "sqlite", "postgres"
            database = options.site.fresh(on)               # an empty, migrated Switchboard; see places.py
            messages = options.scaled(20_000)               # its own size, times --scale
            process = database.start("manage.py", "up", "--no-web")   # end what you start; see contender.end
            with quiet():                                   # nothing else measures on this machine during the block
                ...
            options.say(f"{on:10}{rate:10,.0f}/s")          # a line of its table, as soon as it is known
        return {"sqlite": {"rate": rate}, "missed": []}     # goes into the JSON file as it is

``missed`` lists, as one sentence each with the figure and the bound, the bounds that did not hold; it is printed at
the end. A loss (a message, a row) belongs there as well: a figure of such a run must not be in the dict. An
exception ends this scenario alone. Without ``--scale`` a scenario should take three minutes at most, and it shows that
it is alive every half minute. With ``--scale 0.05`` it should take seconds, so that it can be tried.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from bench.places import DATABASES, Site

LOCK = "SWITCHBOARD_BENCH_LOCK"  # names a file that every measurement on this machine locks


@dataclass(frozen=True)
class Options:
    """The settings of a scenario's run."""

    site: Site
    databases: tuple[str, ...] = DATABASES
    scale: float = 1.0

    def scaled(self, size: float, least: int = 1) -> int:
        """A number of messages, services or seconds, as large as was asked for."""
        return max(least, round(size * self.scale))

    @staticmethod
    def say(line: str) -> None:
        print(f"  {line}", flush=True)


@contextmanager
def quiet() -> Iterator[None]:
    """The machine for ourselves, where SWITCHBOARD_BENCH_LOCK names the file that the others lock, too."""
    if not (path := os.environ.get(LOCK)):
        yield
        return
    with Path(path).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def names() -> list[str]:
    return [module.name for module in iter_modules(__path__)]


def run(name: str, options: Options) -> dict[str, Any]:
    """Run one scenario and return its figures; if it raised, the error's text is under ``missed``."""
    began = time.monotonic()
    try:
        scenario = import_module(f"{__name__}.{name}")
        print(f"\n{name}: {(scenario.__doc__ or '').partition(chr(10))[0]}", flush=True)
        found: dict[str, Any] = scenario.run(options)
    except Exception as error:
        traceback.print_exc()
        found = {"missed": [f"it ended with {type(error).__name__}: {error}"]}
    for sentence in found.get("missed", []):
        options.say(f"MISSED: {sentence}")
    return found | {"seconds": round(time.monotonic() - began, 1)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names()) or 'none yet'}; default all")
    parser.add_argument("--on", nargs="*", choices=DATABASES, default=DATABASES, help="databases (default both)")
    parser.add_argument("--scale", type=float, default=1.0, help="of each scenario's size, such as 0.1 for trying")
