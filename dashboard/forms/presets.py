"""Starting points for a new service: usual kinds of receivers, with the settings that suit them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from integrations.schemas.service import ServiceIn


@dataclass(frozen=True, slots=True)
class Preset:
    """``settings`` are those that differ from the defaults."""

    key: str
    title: str
    summary: str
    settings: dict[str, Any]

    @property
    def configuration(self) -> dict[str, Any]:
        """All settings, as the form takes the present ones of a service."""
        needed = {"name": "preset", "base_url": "https://preset.invalid"}
        filled = ServiceIn.model_validate(needed | self.settings).model_dump(mode="json")
        return {name: value for name, value in filled.items() if name not in needed}


PRESETS = (
    Preset(
        "webhook",
        "Webhook receiver",
        "Someone else's endpoint on the internet: retries over three days, a short timeout, paused when it is gone.",
        {
            "retry": {"max_attempts": 20, "initial": 10, "factor": 3, "max": 6 * 3600, "on_gone": "pause"},
            "timeout": {"connect": 5, "total": 15},
        },
    ),
    Preset(
        "internal",
        "Internal API",
        "Yours and near: fast retries for a few minutes, more calls at once, quick recovery.",
        {
            "retry": {"max_attempts": 8, "initial": 1, "factor": 2, "max": 120},
            "timeout": {"connect": 1, "total": 10},
            "limits": {"concurrency": 20},
            "breaker": {"open_for": 15, "open_max": 300},
        },
    ),
    Preset(
        "partner",
        "Rate-limited partner",
        "A contract with a limit: five calls a second, few retries at once, patience.",
        {
            "limits": {"rate": 5, "per": 1, "concurrency": 5},
            "retry": {"max_attempts": 15, "initial": 30, "factor": 2, "max": 3600, "budget": 0.1},
            "timeout": {"connect": 5, "total": 60},
        },
    ),
    Preset(
        "batch",
        "Batch",
        "Long calls, two at a time: a timeout of five minutes, and minutes between attempts.",
        {
            "timeout": {"connect": 10, "total": 300},
            "limits": {"concurrency": 2},
            "retry": {"max_attempts": 6, "initial": 60, "factor": 5, "max": 6 * 3600},
            "breaker": {"consecutive_failures": 3, "open_for": 300, "open_max": 3600},
        },
    ),
)


def preset_named(key: str | None) -> Preset | None:
    return next((preset for preset in PRESETS if preset.key == key), None)
