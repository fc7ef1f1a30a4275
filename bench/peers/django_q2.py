"""django-q2 as it is usually used: one task for each message, which calls and records by the ORM.

Kind to it: a pooled client for each worker process, no results kept, tasks already queued when the clock starts, and
only an attempt row is written: no state of the message, no breaker, no retry, no limits.
"""

from __future__ import annotations

import subprocess
import time
from typing import Any

import psutil

from bench.contender import OnOurTables, wait_for
from bench.places import Database
from bench.prepare import HELD_QUEUE
from bench.sink import Sink

SETTINGS = {"DJANGO_SETTINGS_MODULE": "bench.peers.django_q2_settings"}
PROCESSES = 6  # main, sentinel, pusher, monitor and two workers

_client: Any = None


def deliver(message_id: int) -> int:
    """The task."""
    import httpx
    from django.utils import timezone

    from integrations.models import Attempt, Message

    global _client
    _client = _client or httpx.Client(timeout=10, trust_env=False)
    message = Message.objects.select_related("content", "service").get(pk=message_id)
    started_at = timezone.now()
    response = _client.post(
        message.service.base_url + message.path,
        content=bytes(message.content.body),
        headers={"Content-Type": message.content.content_type, "webhook-id": message.wire_id},
    )
    Attempt.objects.create(
        message=message,
        service=message.service,
        number=1,
        trigger="first",
        started_at=started_at,
        duration=(timezone.now() - started_at).total_seconds(),
        outcome="succeeded" if response.is_success else "failed",
        status_code=response.status_code,
        method=message.method,
        url=str(response.url),
        request_headers=list(response.request.headers.items()),
        request_size=len(message.content.body),
        response_headers=list(response.headers.items()),
        response_body=response.content,
        response_size=len(response.content),
    )
    return response.status_code


class TaskForEachMessage(OnOurTables):
    name = "django-q2 task per message"
    command = "manage.py qcluster (ORM broker, 2 workers, save_limit -1)"
    share = 0.05
    keeps_state = False

    def queue(self, ground: Database, sink: Sink, messages: int) -> None:
        ground.run("-m", "bench.prepare", str(messages), sink.url, "--tasks", **SETTINGS)

    def start(self, ground: Database) -> subprocess.Popen[bytes]:
        return ground.start("manage.py", "qcluster", **SETTINGS)

    def wait_until_ready(self, ground: Database, process: subprocess.Popen[bytes]) -> None:
        root = psutil.Process(process.pid)
        wait_for(lambda: len(root.children(recursive=True)) >= PROCESSES - 1, process, ground)
        time.sleep(1.5)  # its workers say nothing when they are ready

    def release(self, ground: Database, process: subprocess.Popen[bytes]) -> None:
        ground.ask(f"UPDATE django_q_ormq SET key = 'bench' WHERE key = '{HELD_QUEUE}'")


CONTENDERS = [TaskForEachMessage()]
