"""One harness for all faults: traffic that numbers its messages, and a judge that compares what each side says.

Each number is posted once and never repeated. The sets are Jepsen's:

- *ok*: acknowledged by a 202 and delivered
- *lost*: acknowledged and not delivered
- *unexpected*: received and never sent
- *duplicated*: calls beyond the first of a number, each of which a lost or failed attempt must explain
- *recovered*: sent without an acknowledgement (no response, or a 503), and delivered all the same
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.traffic import ENDS_WITHIN, NEXT_WITHIN, rows, tell, unfinished
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

SERVICE = {
    "name": "chaos",
    "limits": {"concurrency": 20},
    "breaker": {"enabled": False},
    "retry": {"initial": 0.5, "factor": 1.5, "max": 2, "max_attempts": 20},
}
PATH = "/orders"
SENDERS = 3
PAUSE = 0.03  # seconds between two messages of a sender
STREAMS_AFTER = 20  # deliveries
POST_WITHIN = 5.0  # seconds; then the outcome is unknown
ROLLED_WITHIN = 75.0  # seconds; counters are summed every 30 s
PASSWORD = "correct horse battery"


@dataclass
class Verdict:
    """The five sets as counts, and the reasons of the attempts that did not succeed."""

    fault: str
    ok: int
    lost: int
    unexpected: int
    duplicated: int
    recovered: int
    reasons: dict[str, int]
    recovery: float = 0.0  # seconds from the end of the fault to the delivery of the next message
    used: dict[str, str] = field(default_factory=dict)  # MiB and descriptors by role, before and after

    def __str__(self) -> str:
        sets = ", ".join(f"{name} {getattr(self, name)}" for name in SETS)
        used = "; ".join(f"{role} {text}" for role, text in sorted(self.used.items()))
        return f"{self.fault}: {sets}; reasons {self.reasons}; recovery {self.recovery:.1f} s; {used}"


SETS = ("ok", "lost", "unexpected", "duplicated", "recovered")


class Chaos:
    """Traffic for one service of an installation, from a start to the verdict."""

    def __init__(self, installation: Installation, receiver: Receiver) -> None:
        self.installation, self.receiver = installation, receiver
        self.accepted: dict[int, str] = {}  # number: id
        self.unknown: dict[int, str] = {}  # number: the response, or why there was none
        self.refused: list[str] = []  # 4xx, which no fault explains
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._recovery = 0.0
        self._console = sign_in(installation)
        self._token = installation.token()
        with self._client() as api:
            made = api.post("services", json={**SERVICE, "base_url": receiver.url})
            assert made.status_code == 201, made.text
        self._used_before = used(installation)

    # ---- traffic ---------------------------------------------------------------------------------------------------
    @contextmanager
    def traffic(self) -> Iterator[Self]:
        """Send until the end of the block. At its start the stream runs, and calls are in flight."""
        is_over = threading.Event()
        senders = [threading.Thread(target=self._send, args=(is_over,), name="chaos") for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        try:
            self.receiver.wait_for(STREAMS_AFTER, timeout=30)
            self.receiver.wait_until(lambda: self.receiver.in_flight >= 2, 30, "calls in flight")
            yield self
        finally:
            is_over.set()
            for sender in senders:
                sender.join(timeout=60)
            assert self.refused == []

    def measure_recovery(self, within: float = NEXT_WITHIN) -> float:
        """The fault is over: wait until a message that is sent now is delivered. Returns and notes the seconds."""
        began = time.monotonic()
        with self._client() as api:
            while time.monotonic() - began < within:
                number = next(self._numbers)
                self._post(api, number)
                if sent := self.accepted.get(number):
                    left = max(0.1, within - (time.monotonic() - began))
                    self.receiver.wait_until(lambda: sent in self.receiver.ids(), left, f"message {sent}")
                    self._recovery = time.monotonic() - began
                    return self._recovery
                time.sleep(0.1)
        raise AssertionError(f"no message was accepted for {within:g} s: {list(self.unknown.values())[-3:]}")

    def _send(self, is_over: threading.Event) -> None:
        with self._client() as api:
            while not is_over.wait(PAUSE):
                self._post(api, next(self._numbers))

    def _post(self, api: httpx.Client, number: int) -> None:
        message = {"service": "chaos", "path": PATH, "body": {"order": number}}
        try:
            answer = api.post("messages", json=message)
        except httpx.HTTPError as error:
            with self._lock:
                self.unknown[number] = repr(error)
            return
        with self._lock:
            if answer.status_code == 202:
                self.accepted[number] = answer.json()["id"]
                return
            self.unknown[number] = answer.text[:200]
            if (
                answer.status_code < 500
                and answer.status_code != 401
                and "problem+json" in answer.headers.get("content-type", "")
            ):
                # Any other response is that of a program that took the port while no web server was there.
                self.refused.append(answer.text)

    def _client(self) -> httpx.Client:
        api = self.installation.api(self._token)
        api.timeout = httpx.Timeout(POST_WITHIN)
        return api

    # ---- the judge -------------------------------------------------------------------------------------------------
    def judge(
        self,
        fault: str,
        within: float = ENDS_WITHIN,
        *,
        counters: bool = False,
        needs: frozenset[str] = frozenset(),
        dead: frozenset[str] = frozenset(),
    ) -> Verdict:
        """Wait until all has ended, compare what each side says, print the verdict and return it.

        ``counters``: also the counters of `/metrics`, which are up to 30 s old. ``needs``: lines that the
        overview may have afterwards. ``dead``: messages that end dead; they are not among the numbers.
        """
        until(lambda: not unfinished(self.installation), within, lambda: f"unfinished: {unfinished(self.installation)}")
        verdict = self._verdict(fault)
        print(f"\n{verdict}")
        assert (verdict.lost, verdict.unexpected) == (0, 0)
        self._check_rows(dead)
        self._check_agreement(dead)
        until(lambda: self._is_calm(needs), 60, lambda: self.page("/"))
        if counters:
            self._check_counters(len(dead))
        return verdict

    def _verdict(self, fault: str) -> Verdict:
        calls = Counter(call.json()["order"] for call in list(self.receiver.calls) if call.path == PATH)
        after = used(self.installation)
        reasons = rows(
            self.installation,
            "SELECT fault, count(*) FROM integrations_attempt WHERE outcome <> 'succeeded' GROUP BY fault",
        )
        return Verdict(
            fault,
            ok=len(self.accepted.keys() & calls.keys()),
            lost=len(self.accepted.keys() - calls.keys()),
            unexpected=len(calls.keys() - self.accepted.keys() - self.unknown.keys()),
            duplicated=sum(number - 1 for number in calls.values()),
            recovered=len(self.unknown.keys() & calls.keys()),
            reasons=dict(reasons),
            recovery=self._recovery,
            used={role: f"{self._used_before.get(role, '-')} → {text}" for role, text in after.items()},
        )

    def _check_rows(self, dead: frozenset[str]) -> None:
        """Each call has its row, and a second call its reason."""
        stories, received = tell(self.installation), Counter(self.receiver.ids())
        assert set(self.accepted.values()) <= set(stories), "an accepted message is not stored"
        assert set(received) <= set(stories), "a call was made for a message that is not stored"
        for public_id, story in stories.items():
            if public_id in dead:
                assert (story.status, set(story.outcomes)) == ("dead", {"lost"}), (public_id, story)
                continue
            calls, unsuccessful = received[public_id], len(story.outcomes) - story.outcomes.count("succeeded")
            assert story.status == "delivered", (public_id, story)
            assert calls <= len(story.outcomes), (public_id, calls, story)
            assert calls - 1 <= unsuccessful, (public_id, calls, story)
            assert story.numbers == list(range(1, len(story.numbers) + 1)), (public_id, story)
            assert story.calls == len(story.outcomes), (public_id, story)
            assert story.outcomes.count("succeeded") == 1, (public_id, story)

    def _check_agreement(self, dead: frozenset[str]) -> None:
        """API and metrics say what the database says: all is delivered, and nothing waits."""
        expected = {"pending": set(), "delivering": set(), "dead": set(dead), "cancelled": set()}
        with self._client() as api:
            api.timeout = httpx.Timeout(30)
            for status, ids in expected.items():
                items = api.get("messages", params={"status": status}).json()["items"]
                assert {item["id"] for item in items} == ids, status
            assert api.get("services/chaos").json()["backlog"] == 0
        found = self.metrics()
        assert (found["switchboard_waiting", "chaos"], found["switchboard_in_flight", "chaos"]) == (0, 0)

    def _check_counters(self, dead: int) -> None:
        (stored,) = rows(self.installation, "SELECT count(*) FROM integrations_message")[0]
        (lost,) = rows(self.installation, "SELECT count(*) FROM integrations_attempt WHERE fault = 'worker_lost'")[0]
        until(
            lambda: self._counted("delivered") == stored - dead and self._counted("dead") == dead,
            ROLLED_WITHIN,
            lambda: f"{self.metrics()} in place of {stored - dead} and {dead}",
        )
        # A result that came late has completed its lost attempt, which stays counted.
        assert self._counted("lost") >= lost

    def _counted(self, name: str) -> float:
        return self.metrics().get((f"switchboard_{name}_total", "chaos"), 0)

    def _is_calm(self, needs: frozenset[str]) -> bool:
        """Whether pages show no trouble but the failures of calls that timed out, and what the caller names: kinds of
        rows in the list of problems, such as "service"."""
        lines = set(re.findall(r'id="needs-(\w+)', self._html("/")))
        workers = self.page("/workers/")
        return lines <= {"failure", *needs} and "takes no writes" not in workers and "2 lanes on" in workers

    # ---- the other sides -------------------------------------------------------------------------------------------
    def page(self, path: str) -> str:
        """The words of a page."""
        return " ".join(re.sub(r"<[^>]*>", " ", self._html(path)).split())

    def _html(self, path: str) -> str:
        """A page. When a clock leaps, the session may end."""
        answer = self._console.get(path)
        if "/login/" in str(answer.url):
            answer = submit(self._console, str(answer.url), answer.text)
        assert answer.status_code == 200, answer.text[:500]
        return answer.text

    def metrics(self) -> dict[tuple[str, ...], float]:
        answer = httpx.get(f"{self.installation.url}/metrics", timeout=30, trust_env=False)
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    def readyz(self) -> tuple[int, dict[str, Any]]:
        answer = httpx.get(f"{self.installation.url}/readyz", timeout=30, trust_env=False)
        return answer.status_code, answer.json()

    def says_no_writes(self, *words: str, within: float = 30.0) -> None:
        """Whether `/readyz`, the workers page and the doctor say that the database takes no writes, and why."""

        def is_unready() -> bool:
            status, report = self.readyz()
            return status == 503 and any(word in report.get("reason", "") for word in words)

        until(is_unready, within, lambda: str(self.readyz()))
        page = self.page("/workers/")
        assert "The database takes no writes" in page
        assert any(word in page for word in words), page
        doctor = self.installation.manage("doctor", check=False)
        assert doctor.returncode == 1, doctor.stdout
        assert "fail: the database takes no writes: " in doctor.stdout, doctor.stdout
        assert any(word in doctor.stdout for word in words), doctor.stdout
        assert "start manage.py up" not in doctor.stdout


def sign_in(installation: Installation) -> httpx.Client:
    """A browser of the first account, by the link that the first start prints."""
    until(lambda: "/setup/" in installation.log, 30, "no set-up link")
    path = re.findall(r"(/setup/[^/\s]+/)", installation.log)[-1]
    console = httpx.Client(base_url=installation.url, timeout=30, trust_env=False, follow_redirects=True)
    answer = submit(console, path, console.get(path).text)
    assert "/setup/" not in str(answer.url), answer.text
    return console


def submit(console: httpx.Client, path: str, form: str) -> httpx.Response:
    token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form)[0]
    fields = {"csrfmiddlewaretoken": token, "username": "ada", "password": PASSWORD}
    answer = console.post(path, data=fields, headers={"Referer": str(console.base_url)})
    assert answer.status_code == 200, answer.text[:500]
    return answer


def used(installation: Installation) -> dict[str, str]:
    """Memory and descriptors of the largest process of each role."""
    found = {}
    for role, processes in installation.processes().items():
        sizes = []
        for process in processes:
            try:
                sizes.append((process.memory_info().rss, process.num_fds()))
            except psutil.Error:
                continue
        if sizes and role in ("web", "lane"):
            size, descriptors = max(sizes)
            found[role] = f"{size / 1024**2:.0f} MiB, {descriptors} fds"
    return found
