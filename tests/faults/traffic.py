"""Messages in a stream through the API of a real installation, and the conditions that must hold in the end."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import psutil

from integrations.models import identifiers
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

LANES = 2
NEXT_WITHIN = 60.0  # seconds from a kill to the next message's delivery; docs/contract.md
ENDS_WITHIN = 90.0  # seconds until everything has ended after a fault
SERVICE = {
    "name": "billing",
    "limits": {"concurrency": 20},
    "retry": {"initial": 0.5, "factor": 1.5, "max": 2, "max_attempts": 20},
}


class Traffic:
    """A program that queues messages for one service and takes only an answer for an answer."""

    def __init__(self, installation: Installation, receiver: Receiver) -> None:
        self.installation = installation
        self.receiver = receiver
        self.accepted: list[str] = []
        self.errors: list[str] = []
        self._numbers = count(1)
        self._sender: threading.Thread | None = None
        self._token = installation.token()
        with installation.api(self._token) as api:
            made = api.post("services", json={**SERVICE, "base_url": receiver.url})
            assert made.status_code == 201, made.text

    def send(self, within: float = 60.0) -> str:
        """Queue one message and return its id. A request without a response is sent again under the same key."""
        number = next(self._numbers)
        deadline = time.monotonic() + within
        with self.installation.api(self._token) as api:
            return self._send(api, number, deadline)

    def stream(self, messages: int, pause: float = 0.01) -> None:
        """Start to queue messages one after the other, in a thread."""
        self._sender = threading.Thread(target=self._stream, args=(messages, pause), name="traffic")
        self._sender.start()

    def join(self) -> None:
        if self._sender:
            self._sender.join(timeout=120)
            assert not self._sender.is_alive(), f"the API did not take the messages; errors: {self.errors[-3:]}"
            self._sender = None

    def send_and_wait(self, within: float = NEXT_WITHIN) -> float:
        """Queue one message and return the seconds until the receiver has it."""
        began = time.monotonic()
        sent = self.send(within)
        self.receiver.wait_until(lambda: sent in self.receiver.ids(), within, f"message {sent}")
        return time.monotonic() - began

    def _stream(self, messages: int, pause: float) -> None:
        with self.installation.api(self._token) as api:
            for _ in range(messages):
                self._send(api, next(self._numbers), time.monotonic() + 90)
                time.sleep(pause)

    def _send(self, api: httpx.Client, number: int, deadline: float) -> str:
        wanted = {"service": "billing", "path": "/orders", "body": {"order": number}}
        while True:
            try:
                answer = api.post("messages", json=wanted, headers={"Idempotency-Key": f"order-{number}"})
                problem = f"{answer.status_code} {answer.text[:200]}"
            except httpx.HTTPError as error:
                answer, problem = None, repr(error)
            if answer is not None and answer.status_code == 202:
                sent: str = answer.json()["id"]
                self.accepted.append(sent)
                return sent
            self.errors.append(problem)
            assert answer is None or answer.status_code >= 500, problem
            assert time.monotonic() < deadline, f"order {number} was not accepted: {problem}"
            time.sleep(0.1)

    # ---- conditions ------------------------------------------------------------------------------------------------
    def wait_until_ended(self, within: float = ENDS_WITHIN) -> None:
        until(lambda: not unfinished(self.installation), within, lambda: f"unfinished: {unfinished(self.installation)}")

    def check(self) -> None:
        """Everything accepted was delivered, nothing else was, and every call has its row.

        A claim is committed before the call goes out, and a process can die in between: then there is a row, `lost`,
        without a call. It is the only way in which rows and calls may differ, and a call is repeated for no other
        reason than a lost one.
        """
        stories = tell(self.installation)
        received = Counter(self.receiver.ids())
        assert set(stories) == set(self.accepted), "stored and accepted messages differ"
        assert {story.status for story in stories.values()} == {"delivered"}
        assert set(received) == set(self.accepted), "received and accepted messages differ"
        for public_id, story in stories.items():
            calls = received[public_id]
            answered = len(story.outcomes) - story.lost
            assert answered <= calls <= len(story.outcomes), (public_id, calls, story)
            assert calls == 1 or story.lost, (public_id, calls, story)
            assert story.numbers == list(range(1, len(story.numbers) + 1)), (public_id, story)
            assert story.calls == len(story.outcomes), (public_id, story)
            assert story.outcomes.count("succeeded") == 1, (public_id, story)


# ---- what the database says -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Story:
    """One message and its attempt rows."""

    status: str
    calls: int
    numbers: list[int]
    outcomes: list[str]

    @property
    def lost(self) -> int:
        return self.outcomes.count("lost")


def tell(installation: Installation) -> dict[str, Story]:
    """Every message by its public id."""
    attempts: dict[int, list[tuple[int, str]]] = {}
    for message_id, number, outcome in rows(
        installation, "SELECT message_id, number, outcome FROM integrations_attempt ORDER BY number, id"
    ):
        attempts.setdefault(message_id, []).append((number, outcome))
    return {
        identifiers.public_id("msg", pk, nonce): Story(
            status, calls, [number for number, _ in attempts.get(pk, [])], [name for _, name in attempts.get(pk, [])]
        )
        for pk, nonce, status, calls in rows(installation, "SELECT id, nonce, status, calls FROM integrations_message")
    }


def unfinished(installation: Installation) -> dict[str, int]:
    return {
        status: number
        for status, number in rows(installation, "SELECT status, count(*) FROM integrations_message GROUP BY status")
        if status in ("pending", "delivering")
    }


def lost_rows(installation: Installation) -> int:
    return sum(story.lost for story in tell(installation).values())


def alive_workers(installation: Installation) -> list[int]:
    """The processes whose worker rows were neither stopped nor lost."""
    return [pid for (pid,) in rows(installation, "SELECT pid FROM integrations_worker WHERE stopped_at IS NULL")]


def busiest_worker(installation: Installation) -> int:
    """The process that holds the most claims at this moment."""
    holding = rows(
        installation,
        "SELECT worker.pid, count(*) FROM integrations_message message"
        " JOIN integrations_worker worker ON worker.id = message.worker_id"
        " WHERE message.status = 'delivering' AND worker.stopped_at IS NULL"
        " GROUP BY worker.pid ORDER BY count(*) DESC",
    )
    return int(holding[0][0]) if holding else 0


def rows(installation: Installation, query: str) -> list[tuple[Any, ...]]:
    if url := installation.env.get("SWITCHBOARD_DATABASE_URL"):
        import psycopg

        with psycopg.connect(url) as connection:
            return connection.execute(query).fetchall()
    database = installation.data / "switchboard.sqlite3"
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=20)) as opened:
        return opened.execute(query).fetchall()


# ---- the process tree -----------------------------------------------------------------------------------------------
def wait_for_lanes(installation: Installation, within: float = NEXT_WITHIN) -> None:
    """Waits until the whole tree stands: both lanes work, and no process of an older tree is left."""
    whole = {"up": 1, "web": 1, "cluster": 1, "sentinel": 1, "lane": LANES, "helper": 2}
    until(lambda: shape(installation) == whole, within, lambda: f"{shape(installation)} in place of {whole}")


def shape(installation: Installation) -> dict[str, int]:
    tree = installation.processes()
    known = {process.pid for role in tree.values() for process in role}
    found = {role: len(processes) for role, processes in tree.items()}
    if strays := [process.pid for process in installation.everything() if process.pid not in known]:
        found["stray"] = len(strays)
    return found


def helpers(installation: Installation) -> dict[str, psutil.Process]:
    """django-q2 spawns its monitor before its pusher (`spawn_cluster`); they have no other mark."""
    monitor, pusher = sorted(installation.processes()["helper"], key=lambda process: process.pid)
    return {"monitor": monitor, "pusher": pusher}
