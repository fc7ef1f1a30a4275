"""Caches of texts that requests bring: the process must not keep long ones for good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from integrations.outbound import exchange, headers, redaction, urls

pytestmark = pytest.mark.slow

LONG = "é" * 900_000
URL = f"https://billing.example.com/?q={LONG}"


def _refused(url: str) -> None:
    with pytest.raises(ValueError, match="at most 8192 characters"):
        exchange.destination_of(url, ())


@pytest.mark.parametrize(
    ("cached", "read"),
    [
        (redaction._without_credentials, lambda: redaction.redacted_url(URL)),
        (redaction._is_secret_header, lambda: redaction.names_a_secret(LONG)),
        (redaction._needles, lambda: redaction.redacted_text("a", [LONG])),
        (urls.parse_url, lambda: urls.check_url(URL)),
        (exchange.destination_of, lambda: _refused(URL)),
        (headers._name_refusal, lambda: headers.header_refusal(LONG, "")),
    ],
)
def test_a_long_text_of_a_request_stays_in_no_cache(cached: Any, read: Callable[[], object]) -> None:
    before = cached.cache_info().currsize
    read()
    assert cached.cache_info().currsize == before


def test_a_long_url_is_masked_like_a_short_one() -> None:
    assert redaction.redacted_url(f"{URL}&api_key=hush-hush").endswith("&api_key=••••")
    assert redaction.redacted_text(f"{LONG} and more", [LONG]) == "•••• and more"
    assert redaction.names_a_secret("x" * 9000 + "-token")
