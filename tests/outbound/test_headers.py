"""Headers that a request may set."""

from __future__ import annotations

import pytest

from integrations.outbound import headers


@pytest.mark.parametrize("name", ["Expect", "content_length", "Transfer_Encoding"])
def test_a_new_header_that_helps_to_smuggle_a_request_is_refused_but_accepted_ones_are_sent(name: str) -> None:
    assert "cannot be set" in (headers.header_refusal(name, "1") or "")
    assert headers.header_refusal(name, "1", own=True) is None
