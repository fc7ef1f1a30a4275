"""The result of one run of a contender, and whether its figure counts.

A figure counts only if every message arrived once and has its record: a client that failed each call after sending it
looked very fast once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

PEERS = ("python", "node")
YARDSTICK = "django-q2 task per message"


@dataclass(frozen=True)
class Run:
    """One run. ``seconds``: from the release of the messages to the last record in the database."""

    contender: str
    on: str
    command: str
    sent: int
    seconds: float
    arrived: int  # calls at the sink
    unique: int  # different messages at the sink
    recorded: int  # attempt rows that say succeeded
    recorded_messages: int  # different messages among them
    delivered: int | None  # messages whose state says so; None where the contender keeps no state
    facts: dict[str, float] = field(default_factory=dict)
    family: str = ""  # of PEERS; or what of Switchboard: "cluster", "pump", or its HTTP "client" without the rest

    @property
    def label(self) -> str:
        return f"{self.contender} on {self.on}"

    @property
    def rate(self) -> float:
        """Recorded deliveries a second."""
        return self.sent / self.seconds

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "rate": self.rate, "rejected": rejections(self)}


def rejections(run: Run) -> list[str]:
    """Why the run's figure is not used, in words; empty where it is."""
    expected = {
        "arrived at the sink": run.arrived,
        "different messages at the sink": run.unique,
        "successful attempts recorded": run.recorded,
        "different messages with an attempt": run.recorded_messages,
        "messages delivered": run.sent if run.delivered is None else run.delivered,
    }
    return [f"{words}: {count:,} of {run.sent:,}" for words, count in expected.items() if count != run.sent]


@dataclass(frozen=True)
class Figure:
    """The accepted runs of one contender on one database."""

    label: str
    on: str
    family: str
    command: str
    runs: list[Run]
    rejected: int

    @property
    def rate(self) -> float:
        return median(run.rate for run in self.runs)

    def fact(self, name: str) -> float | None:
        known = [run.facts[name] for run in self.runs if name in run.facts]
        return median(known) if known else None


def figures(runs: list[Run]) -> list[Figure]:
    """One figure for each contender and database that has an accepted run."""
    by_label: dict[str, list[Run]] = {}
    for run in runs:
        by_label.setdefault(run.label, []).append(run)
    found = []
    for label, same in by_label.items():
        accepted = [run for run in same if not rejections(run)]
        if accepted:
            found.append(
                Figure(label, same[0].on, same[0].family, same[0].command, accepted, len(same) - len(accepted))
            )
    return found


# ---- compared with each other ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Ratios:
    """One figure divided by others of the same invocation; None if there is nothing to compare with."""

    django_q2: float | None  # one task for each message, on the same database
    python: float | None  # the fastest of the Python peers, wherever it keeps its messages
    node: float | None  # the fastest of the Node peers
    client: float | None  # Switchboard's own client without the rest: the share of the whole path in it


def ratios(figure: Figure, among: list[Figure]) -> Ratios:
    def beside(rates: list[float]) -> float | None:
        return figure.rate / max(rates) if rates else None

    return Ratios(
        django_q2=beside([other.rate for other in among if other.label == f"{YARDSTICK} on {figure.on}"]),
        python=beside([other.rate for other in among if other.family == "python"]),
        node=beside([other.rate for other in among if other.family == "node"]),
        client=beside([other.rate for other in among if other.family == "client"]),
    )


@dataclass(frozen=True)
class Bound:
    """The ratio that a figure must reach against the others, and the one that it reached."""

    words: str
    reached: float
    least: float

    @property
    def holds(self) -> bool:
        return self.reached >= self.least


def bounds(found: list[Figure]) -> list[Bound]:
    """The bounds of the cluster on each database, as far as there is something to compare with."""
    bounds = []
    for figure in found:
        beside = ratios(figure, found)
        wanted: list[tuple[str, float | None, float]] = []
        if figure.family == "cluster":
            wanted = [("the best Python peer", beside.python, 3.0)]
            if figure.on == "postgres":
                wanted += [("the best Node peer", beside.node, 1.0), ("the best Node peer (aim)", beside.node, 1.5)]
        if figure.family == "pump":
            wanted = [("its client alone", beside.client, 0.25)]
        bounds += [
            Bound(f"{figure.label} against {words}", reached, least)
            for words, reached, least in wanted
            if reached is not None
        ]
    return bounds
