"""The receiver stands for the other side in most tests, so it is held to what they rely on."""

import threading

import httpx
import pytest

from tests.support.receiver import Answer, Receiver


def test_it_remembers_what_it_was_sent(sink: Receiver) -> None:
    sink.answer(201, headers={"X-Seen": "yes"}, body={"ok": True})
    answer = httpx.post(f"{sink.url}/orders?page=2", json={"id": 7}, headers={"webhook-id": "msg_1"})
    assert (answer.status_code, answer.headers["x-seen"], answer.json()) == (201, "yes", {"ok": True})
    assert (sink.last.method, sink.last.path, sink.last.query) == ("POST", "/orders", "page=2")
    assert sink.last.json() == {"id": 7}
    assert sink.ids() == ["msg_1"]
    sink.wait_until(lambda: sink.last.answered_at is not None)


def test_a_script_comes_before_the_standing_answer(sink: Receiver) -> None:
    sink.answer(204)
    sink.script(503, Answer(429, headers={"Retry-After": "1"}))
    with httpx.Client() as client:
        assert [client.get(sink.url).status_code for _ in range(3)] == [503, 429, 204]
    assert sink.connections == 1, "kept alive"


def test_it_is_refused_while_stopped_and_back_on_the_same_port(sink: Receiver) -> None:
    url = sink.url
    with httpx.Client() as client:
        client.get(url)
        sink.stop()
        with pytest.raises(httpx.TransportError):
            client.get(url)
        with pytest.raises(httpx.ConnectError):
            client.get(url)
        sink.start()
        assert client.get(url).status_code == 200
    assert len(sink.calls) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(reset=True), httpx.ReadError),
        (Answer(hang=True), httpx.ReadTimeout),
        (Answer(delay=2), httpx.ReadTimeout),
        (Answer(body=b"x" * 1000, cut_at=10), httpx.TransportError),
        (Answer(raw=b"SSH-2.0-OpenSSH\r\n"), httpx.RemoteProtocolError),
        (Answer(body=b"abc", headers={"Content-Length": "9"}, close=True), httpx.RemoteProtocolError),
    ],
)
def test_it_can_fail_in_every_way_a_peer_can(sink: Receiver, answer: Answer, error: type[Exception]) -> None:
    sink.script(answer)
    with pytest.raises(error):
        httpx.get(sink.url, timeout=0.5)
    assert len(sink.calls) == 1
    sink.wait_until(lambda: sink.in_flight == 0)
    assert httpx.get(sink.url).status_code == 200


def test_a_dripping_body_arrives_whole(sink: Receiver) -> None:
    sink.answer(body=b"drip drop", drip=(3, 0.01))
    assert httpx.get(sink.url).content == b"drip drop"


def test_it_counts_what_is_in_flight(sink: Receiver) -> None:
    sink.answer(delay=1)  # a busy machine starts the eighth thread half a second after the first
    threads = [threading.Thread(target=httpx.get, args=(sink.url,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    sink.wait_for(8)
    for thread in threads:
        thread.join()
    assert sink.max_in_flight == 8
    sink.wait_until(lambda: sink.in_flight == 0)
