"""What one run of a contender came to, and whether its figure may be used.

A figure counts only if every message arrived once and has its record: a client that failed each call after sending it
looked very fast once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


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
            found.append(Figure(label, same[0].on, same[0].command, accepted, len(same) - len(accepted)))
    return found
