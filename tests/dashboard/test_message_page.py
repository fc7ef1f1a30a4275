"""A message's own page: its timeline, the reason for its next call, its neighbours, and what an edit changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from dashboard.presenters.bodies import payload
from dashboard.presenters.diffs import COMPARED, SHOWN, difference
from dashboard.presenters.timeline import planned
from integrations.models import Attempt, Endpoint, Event, Message, Service
from tests.support.signed_in import words

Queue = Callable[..., Message]


def attempts_of(message: Message, count: int, **fields: Any) -> list[Attempt]:
    """So many failed calls, a second apart, the last one just now."""
    now = timezone.now()
    given = {"trigger": "retry", "outcome": "failed", "fault": "status", "status_code": 503, "duration": 0.5} | fields
    rows = [
        Attempt(
            message=message,
            service=message.service,
            number=number,
            **{"started_at": now - timedelta(seconds=count - number + 1)} | given,
        )
        for number in range(1, count + 1)
    ]
    return Attempt.objects.bulk_create(rows)


def response_of(client: Client, message: Message, query: str = "") -> Any:
    response = client.get(f"/messages/{message.public_id}/{query}")
    assert response.status_code == 200
    return response


# ---- the timeline -------------------------------------------------------------------------------------------------
def test_the_timeline_tells_everything_in_its_order(operator: Client, queue: Queue, billing: Service) -> None:
    message = queue(deliver_at=timezone.now() + timedelta(hours=1))
    operator.post(f"/messages/{message.public_id}/retry-now/")
    Event.objects.create(type="service.paused", service=billing, facts={"reason": "their maintenance"})
    attempts_of(message, 1, started_at=timezone.now())
    operator.post(f"/messages/{message.public_id}/cancel/")
    operator.post(f"/messages/{message.public_id}/replay/")
    replay = message.replays.get()
    response = response_of(operator, message)
    told = [entry.attempt.number if entry.attempt else entry.text for entry in response.context["timeline"]]
    assert told[0] == "Replayed by operator"
    assert told[1:4] == ["Cancelled by operator", 1, "billing: Paused: their maintenance"]
    # The new schedule and the act that made it are of the same moment.
    assert sorted(told[4:6]) == ["Retried now by operator", "Scheduled delivery time"]
    assert told[6:] == ["Accepted"]
    assert f"Replayed by operator: {replay.public_id}" in words(response)
    assert "Accepted as a replay" in words(response_of(operator, replay))


def test_what_the_service_went_through_at_other_times_is_left_out(
    viewer: Client, queue: Queue, billing: Service
) -> None:
    before = timezone.now() - timedelta(days=1)
    Event.objects.create(type="service.paused", at=before, service=billing, facts={"reason": "long ago"})
    assert "long ago" not in words(response_of(viewer, queue()))


def test_what_is_not_told_does_not_crowd_out_what_is(
    viewer: Client, queue: Queue, billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.views.messages.detail.EVENTS_SEARCHED", 2)
    message = queue()
    Event.objects.create(type="service.paused", service=billing, facts={"reason": "their maintenance"})
    Event.objects.bulk_create(Event(type="messages.changed", service=billing) for _ in range(3))
    assert "their maintenance" in words(response_of(viewer, message))


def test_calls_are_shown_in_pages_and_only_the_newest_is_open(viewer: Client, queue: Queue) -> None:
    accepted = timezone.now() - timedelta(hours=1)
    message = queue(status="dead", calls=45, attempts=45, due_at=None, created_at=accepted)
    attempts_of(message, 45)
    seen: list[int] = []
    query = ""
    for _ in range(3):
        response = response_of(viewer, message, query)
        shown = [entry.attempt.number for entry in response.context["timeline"] if entry.attempt]
        opened = [number for number in shown if f'id="attempt-{number}" open' in response.content.decode()]
        assert opened == ([45] if not seen else [])
        assert ("Accepted" in [entry.text for entry in response.context["timeline"]]) is (shown[-1] == 1)
        seen += shown
        query = f"?before={response.context['earlier']}"
    assert seen == list(range(45, 0, -1))
    assert "The newest calls" in words(response)


@pytest.mark.parametrize(
    "query", ["?before=x", "?before=-1", "?before=99999999999", "?before=", "?view=nonsense", "?before=0"]
)
def test_an_odd_address_breaks_nothing(viewer: Client, queue: Queue, query: str) -> None:
    message = queue(calls=1)
    attempts_of(message, 1)
    response_of(viewer, message, query)
    assert viewer.get(f"/_p/messages/{message.public_id}/{query}").status_code == 200


def test_a_thousand_calls_take_few_queries_and_little_of_the_page(operator: Client, queue: Queue) -> None:
    queue(ordering_key="a")
    message = queue(ordering_key="a", calls=1000, attempts=1000, tags={"a": "b"})
    queue(ordering_key="a")
    attempts_of(message, 1000, response_body=b"x" * 4096)
    with CaptureQueriesContext(connection) as queries:
        response = response_of(operator, message)
    assert len(queries) <= 12, [query["sql"][:120] for query in queries]
    assert len(response.content) < 250_000


# ---- the next call ------------------------------------------------------------------------------------------------
def test_the_next_call_is_told_with_its_reason(viewer: Client, queue: Queue, billing: Service) -> None:
    now = timezone.now()
    later = now + timedelta(minutes=3)
    message = queue(calls=2, attempts=2, due_at=later, retry_at=later)
    last = attempts_of(message, 2, retry_at=later)[-1]
    allowed = billing.retry_policy.attempts_allowed
    assert planned(message, last, now) == (
        f"the backoff after attempt 2 is 20 s ±20\u202f% jitter. It is attempt 3 of {allowed}."
    )
    last.response_headers = [["Retry-After", "180"]]
    assert planned(message, last, now) == f"the service asked for 3 min (Retry-After). It is attempt 3 of {allowed}."
    text = words(response_of(viewer, message))
    assert "Next call in" in text
    assert ", because the backoff after attempt 2 is 20 s" in text


def test_a_scheduled_message_says_so_and_a_due_one_plans_nothing(queue: Queue) -> None:
    now = timezone.now()
    assert planned(queue(deliver_at=now + timedelta(hours=1)), None, now) == "it is scheduled for then"
    assert planned(queue(), None, timezone.now()) == ""


def test_a_dead_message_says_what_can_be_done_until_it_was_replayed(operator: Client, queue: Queue) -> None:
    message = queue(status="dead", dead_reason="status", due_at=None, finished_at=timezone.now())
    assert "If the request was wrong, edit and replay" in words(response_of(operator, message))
    operator.post(f"/messages/{message.public_id}/replay/")
    text = words(response_of(operator, message))
    assert f"Its replay {message.replays.get().public_id} is pending" in text
    assert "If the request is wrong" not in text


def test_a_replayed_message_is_calm_and_replaying_it_again_warns(operator: Client, queue: Queue) -> None:
    done = {"due_at": None, "finished_at": timezone.now()}
    message = queue(status="dead", dead_reason="status", last_status_code=422, **done)
    assert 'class="verdict dead"' in response_of(operator, message).content.decode()
    replay, _ = message.replay()
    Message.objects.filter(pk=replay.pk).update(status="delivered", **done)
    response = response_of(operator, message)
    page, text = response.content.decode(), words(response)
    assert 'class="verdict replayed"' in page
    assert 'class="button primary"' not in page
    assert "replayed → delivered now This one: Rejected with 422 (not retryable)." in text
    assert "Check the response below" not in text
    warning = f"Its replay {replay.public_id} was delivered. Another replay may reach the receiver twice."
    assert f'id="replay-warning">{warning}' in page
    assert f'data-confirm="{warning} Replay {message.public_id} again?"' in page
    assert warning in words(operator.get(f"/messages/{message.public_id}/replay/"))
    assert "replayed → delivered" in words(response_of(operator, replay)), "its original is no problem there, either"


def test_the_buttons_say_what_they_do(operator: Client, queue: Queue) -> None:
    queue(ordering_key="acme")
    message = queue(ordering_key="acme", deliver_at=timezone.now() + timedelta(hours=1), calls=2)
    queue(ordering_key="acme")
    page = response_of(operator, message)
    assert "Retry now skips the remaining 1 h" in words(page) or "Retry now skips the remaining 59 min" in words(page)
    assert (
        "2 attempts were already made. It no longer blocks the next message with ordering key “acme”."
        in page.content.decode()
    )
    assert "releases the hold" in words(response_of(operator, queue(held=True, due_at=None)))


# ---- neighbours ---------------------------------------------------------------------------------------------------
def test_a_parked_message_names_what_blocks_it(viewer: Client, queue: Queue) -> None:
    first, second, third, fourth = (queue(ordering_key="acme") for _ in range(4))
    other = queue(ordering_key="other")
    Message.objects.filter(pk=third.pk).update(parked=True, due_at=None)
    response = response_of(viewer, third)
    assert f"It waits behind {first.public_id} , which is pending" in words(response)
    assert [response.context[name].pk for name in ("head", "ahead", "behind")] == [first.pk, second.pk, fourth.pk]
    assert other.public_id not in response.content.decode()


def test_a_finished_message_still_knows_its_neighbours(viewer: Client, queue: Queue) -> None:
    now = timezone.now()
    done = {"ordering_key": "acme", "status": "delivered", "due_at": None, "finished_at": now}
    first, second, third = queue(**done), queue(**done), queue(ordering_key="acme")
    context = response_of(viewer, second).context
    assert (context["ahead"].pk, context["behind"].pk, context["head"]) == (first.pk, third.pk, None)


# ---- bodies -------------------------------------------------------------------------------------------------------
def test_bodies_are_shown_pretty_raw_or_as_hex(viewer: Client, queue: Queue) -> None:
    message = queue(body=b'{"n":12345678901234567890}')
    assert '"n" : 12345678901234567890' in words(response_of(viewer, message))
    assert '{"n":12345678901234567890}' in words(response_of(viewer, message, "?view=raw"))
    assert "000000 7b 22 6e 22" in words(response_of(viewer, message, "?view=hex"))
    assert payload(b"ab", view="hex").text.startswith("000000  61 62")


def test_masked_headers_are_marked(viewer: Client, queue: Queue) -> None:
    message = queue()
    attempts_of(message, 1, request_headers=[["Authorization", "Bearer ••••"], ["X-Plain", "yes"]])
    page = response_of(viewer, message).content.decode()
    assert page.count(">masked</span>") == 1


# ---- an edit, looked at before it is sent -------------------------------------------------------------------------
def edited(client: Client, message: Message, **changes: str) -> Any:
    form = {"edited": "1", "form_key": "k", "body": "{}", "headers": "", "endpoint": "", **changes}
    return client.post(f"/messages/{message.public_id}/replay/", form)


def test_an_edit_is_shown_and_nothing_is_sent_before_it_is_confirmed(
    operator: Client, queue: Queue, billing: Service
) -> None:
    Endpoint.objects.create(service=billing, name="new", path="/v2/orders", method="PUT")
    original = {"body": b'{"a":1.10,"b":2}', "headers": {"X-Token": "old-secret"}, "status": "dead", "due_at": None}
    message = queue(**original)
    changes = {"body": '{"a":1.10,"b":3}', "headers": "X-Token: new-secret", "endpoint": "new"}
    response = edited(operator, message, **changes)
    assert response.status_code == 200
    assert not message.replays.exists()
    parts = {name: [(line.mark, line.text.strip()) for line in lines] for name, lines in response.context["parts"]}
    assert parts["Method, path and query"] == [("-", "POST /orders"), ("+", "PUT /v2/orders")]
    assert parts["Headers"][1:] == [("-", "X-Token: ••••"), ("+", "X-Token: ••••")]
    assert parts["Body"] == [(" ", "{"), (" ", '"a": 1.10,'), ("-", '"b": 2'), ("+", '"b": 3'), (" ", "}")]
    assert "of its own" in words(response)
    back = edited(operator, message, **changes, back="1")
    assert '"b":3' in words(back)
    assert edited(operator, message, **changes, confirmed="1").status_code == 303
    made = message.replays.get()
    assert (made.method, made.path, bytes(made.content.body)) == ("PUT", "/v2/orders", b'{"a":1.10,"b":3}')


def test_what_an_edited_replay_changed_can_be_seen_later(operator: Client, viewer: Client, queue: Queue) -> None:
    message = queue(body=b'{"currency":"EUR"}', headers={"X-Token": "old-secret"}, status="dead", due_at=None)
    edited(operator, message, body='{"currency":"USD"}', headers="X-Token: new-secret", confirmed="1")
    replay = message.replays.get()
    changes = f"/messages/{replay.public_id}/changes/"
    assert f'href="{changes}"' in response_of(viewer, replay).content.decode()
    text = words(viewer.get(changes))
    assert '- "currency": "EUR" + "currency": "USD"' in text
    assert "secret" not in text
    assert "is not a replay" in words(viewer.get(f"/messages/{message.public_id}/changes/"))
    Message.objects.filter(pk=replay.pk).update(replay_of=None)
    assert "its original was deleted by retention" in words(viewer.get(changes))


def test_a_body_of_a_mebibyte_is_edited(operator: Client, queue: Queue) -> None:
    rows = [{"id": number, "name": f"row {number}"} for number in range(33_000)]
    body = json.dumps(rows, separators=(",", ":")).encode()
    assert 1_000_000 < len(body) <= 1024 * 1024
    message = queue(body=body, status="dead", due_at=None)
    form = operator.get(f"/messages/{message.public_id}/replay/").context["form"]
    text = form.initial["body"].replace('"row 32999"', '"the last one"')
    response = edited(operator, message, body=text.replace("\n", "\r\n"))
    assert ("+", '"name":"the last one"') in [
        (line.mark, line.text.strip().replace('": "', '":"'))
        for _, lines in response.context["parts"]
        for line in lines
    ]
    edited(operator, message, body=text, confirmed="1")
    made = bytes(message.replays.get().content.body)
    assert made == body.replace(b'"row 32999"', b'"the last one"')


def test_an_edit_that_changes_nothing_says_so(operator: Client, queue: Queue) -> None:
    response = edited(operator, queue(status="dead", due_at=None))
    assert response.context["parts"] == []
    assert "No changes" in words(response)
    assert "webhook-id of the original" in words(response)


def test_markup_in_an_edit_is_shown_as_text(operator: Client, queue: Queue) -> None:
    evil = "</textarea><script>alert(1)</script>"
    page = edited(operator, queue(status="dead", due_at=None), body=json.dumps({"x": evil}), headers=f"X-A: {evil}")
    assert page.status_code == 200
    assert "<script>alert" not in page.content.decode()


def test_a_difference_keeps_its_context_and_counts_the_rest() -> None:
    before = "\n".join(str(number) for number in range(20))
    lines = difference(before, before.replace("10\n", "ten\n"))
    assert [(line.mark, line.text) for line in lines] == [
        ("…", "7 unchanged lines"), (" ", "7"), (" ", "8"), (" ", "9"), ("-", "10"), ("+", "ten"),
        (" ", "11"), (" ", "12"), (" ", "13"), ("…", "6 unchanged lines"),
    ]  # fmt: skip
    assert difference("a", "a") == []
    assert [(line.mark, line.text) for line in difference("", "a")] == [("+", "a")]


@pytest.mark.parametrize("old", ["x\n" * 50_000, "x" * 1_000_000, "".join(f"{n}\n" for n in range(50_000))])
def test_a_huge_difference_is_bounded(old: str) -> None:
    lines = difference(old, "y" + old[::-1])
    assert len(lines) <= SHOWN + 1
    assert max(len(line.text) for line in lines) < COMPARED
