"""How long a response may be reused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from integrations.outbound.outcome import Outcome
from integrations.policies import freshness

NOW = datetime(2026, 1, 31, 10, tzinfo=UTC)
DATE = ("Date", "Sat, 31 Jan 2026 10:00:00 GMT")


def lifetime(*headers: tuple[str, str], status: int = 200) -> float:
    return freshness.lifetime(Outcome(status_code=status, headers=headers), 60, NOW)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], 60),
        ([("Cache-Control", "max-age=10")], 10),
        ([("Cache-Control", "max-age=3600")], 60),  # the service's ttl is the maximum
        ([("Cache-Control", 'public, MAX-AGE="10"')], 10),
        ([("Cache-Control", "max-age=10"), ("Cache-Control", "s-maxage=5")], 5),
        ([("Cache-Control", "max-age=30"), ("Age", "20")], 10),
        ([("Cache-Control", "max-age=30"), ("Age", "junk")], 30),
        ([("Cache-Control", "max-age=" + "9" * 5000)], 60),
        ([("Cache-Control", "max-age=1e3")], 0),
        ([("Cache-Control", 'x="no-store", max-age=10')], 10),  # a word inside another directive's value does not count
        ([("Expires", "Sat, 31 Jan 2026 10:00:30 GMT")], 30),
        ([("Expires", "Sat, 31 Jan 2026 10:00:30 GMT"), ("Date", "Sat, 31 Jan 2026 10:00:20 GMT")], 10),
        ([("Expires", "Sat, 31 Jan 2026 10:00:30 GMT"), ("Expires", "Sat, 31 Jan 2026 11:00:00 GMT")], 0),
        ([("Expires", "Sat, 31 Jan 2026 10:00:30 GMT"), ("Cache-Control", "max-age=5"), DATE], 5),
        ([("Vary", "Accept")], 60),
    ],
)
def test_the_response_states_its_lifetime(headers: list[tuple[str, str]], seconds: float) -> None:
    assert lifetime(*headers) == seconds


@pytest.mark.parametrize("word", ["no-store", "no-cache", "private", 'no-cache="Set-Cookie"', "max-age=10, No-Store"])
def test_some_words_forbid_it(word: str) -> None:
    assert lifetime(("cache-control", word)) == 0


def test_only_a_whole_200_is_kept() -> None:
    assert lifetime(status=203) == lifetime(status=404) == 0
    assert freshness.lifetime(Outcome(status_code=200, truncated=True), 60, NOW) == 0


def test_who_asks_may_want_a_younger_one() -> None:
    assert freshness.accepts([], 59)
    assert freshness.accepts([("Cache-Control", "max-age=30")], 30)
    assert not freshness.accepts([("Cache-Control", "max-age=30")], 31)
    assert not freshness.accepts([("cache-control", "no-cache")], 0)
    assert not freshness.accepts([("Pragma", "no-cache")], 0)
    assert not freshness.may_be_stored([("Cache-Control", "no-store")])
