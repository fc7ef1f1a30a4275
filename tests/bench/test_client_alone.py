"""The client alone: it uses the product's own parts, so it has to follow them."""

from __future__ import annotations

from bench import client_alone
from integrations.workers.pump import new_loop


def test_the_client_alone_sends_each_message_once(sink):
    sent = new_loop().run_until_complete(client_alone.send_all(client_alone.calls_to(f"{sink.url}/hook", 7)))
    assert sent == 7
    assert sorted(call.json()["n"] for call in sink.calls) == [*range(7)]
