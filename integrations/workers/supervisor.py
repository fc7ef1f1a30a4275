"""Keeping workers alive: the cluster's processes, their watchdog, and the supervisor behind `manage.py up`.

django-q2's own guard does not see a cluster that stands still (a killed idle worker leaves the shared queue's lock
held), so the supervisor trusts heartbeats of ours alone: when none of its lanes beats, the whole process tree is
killed and started again.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from redis import RedisError

from integrations.logs import line
from integrations.models import Message, Runtime, Worker, database_now

log = logging.getLogger("switchboard.up")

MANAGE = Path(sys.argv[0]).resolve() if sys.argv[0].endswith("manage.py") else settings.BASE_DIR / "manage.py"
LOOK_EVERY = 1.0  # seconds between looks at the children and their heartbeats
QUIET = timedelta(seconds=7)  # a heartbeat comes every 5 s: after this a lane is asked for again
FROZEN = 15.0  # seconds without any sign of life from a lane before the cluster is started again
HUNG = 30.0  # seconds; a quarantine without a living worker row after its start and a whole lease
STOP_WITHIN = 18.0  # seconds; docs/contract.md promises 20
BACKLOG = 2048  # connections that wait to be taken
RESTART_PAUSE = (0.2, 1.0, 2.0, 5.0)


# ---- a process tree that dies with its parent ---------------------------------------------------------------------
def die_with_parent() -> None:
    """Asks the kernel to kill this process when its parent goes, and the same for every process forked from it.

    django-q2's sentinel, workers, pusher and monitor are forks, and an orphan would go on delivering. Linux only;
    elsewhere a lane ends when the lifeline closes.
    """
    if "SWITCHBOARD_PARENT" not in os.environ:
        return  # started by hand
    expected = int(os.environ["SWITCHBOARD_PARENT"])
    _kill_on_death_of(expected)

    def note_parent() -> None:
        nonlocal expected
        expected = os.getpid()

    os.register_at_fork(before=note_parent, after_in_child=lambda: _kill_on_death_of(expected))


def _kill_on_death_of(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)
    if os.getppid() != parent:  # it went before the request was in place
        os._exit(1)


def run_cluster() -> None:
    """The main process of a django-q2 cluster; ends when it is told to, with its parent, or without its monitor."""
    from django_q import cluster

    class Sentinel(cluster.Sentinel):  # type: ignore[misc]
        def reincarnate(self, process: object) -> None:
            """Replaces what has died, but for the monitor: it takes the lock of the result queue with it, so that
            none after it would acknowledge a slice, and each would come back for ever. The cluster starts again."""
            if process is self.monitor:
                log.error(line("monitor died", cluster=settings.CLUSTER))
                os._exit(1)  # the others go with it
            super().reincarnate(process)

    die_with_parent()
    cluster.Sentinel = Sentinel
    cluster.Cluster().start()


# ---- one child ----------------------------------------------------------------------------------------------------
class Child:
    """A process of ours in a session of its own, started again when it ends."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str], fds: tuple[int, ...] = ()):
        self.name, self.arguments, self.environment, self.fds = name, arguments, environment, fds
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.ends = 0

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        command = [sys.executable, str(MANAGE), *self.arguments]
        self.process = subprocess.Popen(  # noqa: S603 - our own command line
            command, env=self.environment, pass_fds=self.fds, start_new_session=True
        )
        self.started = time.monotonic()
        log.info(line("started", child=self.name, pid=self.process.pid))

    def keep_running(self) -> bool:
        """Starts it (again) where it does not run, with a growing pause; True when it was started now."""
        if self.is_running:
            if time.monotonic() - self.started > 60:
                self.ends = 0
            return False
        if self.process is not None:
            pause = RESTART_PAUSE[min(self.ends, len(RESTART_PAUSE) - 1)]
            if time.monotonic() - self.started < pause:
                return False
            self.ends += 1
            self._sweep_up()
            log.warning(line("ended", child=self.name, code=self.process.returncode))
        self.start()
        return True

    def terminate(self) -> None:
        if self.process is not None and self.is_running:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process and all of its session, whatever state they are in."""
        if self.process is not None:
            self._sweep_up()
            self.process.wait()

    def _sweep_up(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


# ---- the listening sockets ----------------------------------------------------------------------------------------
def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """So many sockets on one address, among which the kernel divides the connections (SO_REUSEPORT).

    They are the supervisor's, so a connection that comes while a web server is started again waits and is not
    refused. Raises OSError where somebody else listens there: a plain socket finds out, before they are made.
    """
    if count < 2:
        return [_listener(host, port) for _ in range(count)]
    with _listener(host, port):
        pass
    return [_listener(host, port, shared=True) for _ in range(count)]


def _listener(host: str, port: int, shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)


# ---- the supervisor -----------------------------------------------------------------------------------------------
class Supervisor:
    """Holds the children of one `manage.py up`: web servers, the cluster, and now and then a quarantine.

    ``web`` is the number of web servers; ``others`` are more commands of manage.py to keep running, by name.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        lanes: int,
        web: int,
        workers: bool,
        others: Mapping[str, list[str]] | None = None,
    ) -> None:
        self.lanes = lanes
        self.cluster = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.lifeline, self._our_end = os.pipe()  # read by the lanes, held open by us
        environment = {
            **os.environ,
            "SWITCHBOARD_PARENT": str(os.getpid()),
            "SWITCHBOARD_CLUSTER": self.cluster,
            "SWITCHBOARD_LANES": str(lanes),
            "SWITCHBOARD_OWN_PORT": str(port if web else 0),
        }
        with_lifeline = {**environment, "SWITCHBOARD_LIFELINE": str(self.lifeline)}
        self._listeners = listen(host, port, web)
        self.web = [
            Child(f"web-{number}", ["serve", "--fd", str(one.fileno())], environment, (one.fileno(),))
            for number, one in enumerate(self._listeners, 1)
        ]
        self.workers = Child("cluster", ["cluster"], with_lifeline, (self.lifeline,)) if workers else None
        self.quarantine = Child("quarantine", ["deliver", "--suspects"], with_lifeline, (self.lifeline,))
        self.others = [Child(name, arguments, environment) for name, arguments in (others or {}).items()]
        self.stopping = False
        self._last_asked = self._all_beat = time.monotonic()

    def run(self) -> None:
        """Returns after a clean stop; SIGTERM and SIGINT ask for one."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            while not self.stopping:
                for child in (*self.web, *self.others):
                    child.keep_running()
                if self.workers:
                    self._look_after_workers(self.workers)
                self._pause(LOOK_EVERY)
        finally:
            self._shut_down()

    def _stop(self, number: int, _frame: object) -> None:
        log.info(line("stopping", signal=signal.Signals(number).name))
        self.stopping = True

    def _look_after_workers(self, workers: Child) -> None:
        if workers.keep_running():
            self._last_asked = self._all_beat = time.monotonic()
            self._quietly(self._ask_for_lanes, self.lanes)
        self._quietly(self._watch, workers)

    def _watch(self, workers: Child) -> None:
        now, moment = database_now(), time.monotonic()
        beating = Worker.objects.alive(now).filter(cluster=self.cluster, heartbeat_at__gt=now - QUIET).count()
        if beating >= self.lanes:
            self._all_beat = moment
        elif moment - self._all_beat > FROZEN:
            log.warning(line("frozen", cluster=self.cluster, beating=beating, lanes=self.lanes))
            workers.kill()
        elif moment - self._last_asked > QUIET.total_seconds():
            self._last_asked = moment
            self._ask_for_lanes(self.lanes - beating)
        self._watch_quarantine(now, moment)

    def _watch_quarantine(self, now: datetime, moment: float) -> None:
        """Starts it for suspects that can be served, and ends one that a poisonous message has hung."""
        if self.quarantine.is_running:
            beats = Worker.objects.alive(now).filter(cluster=f"{self.cluster}-suspects").exists()
            if not beats and moment - self.quarantine.started > HUNG:
                log.warning(line("hung", child=self.quarantine.name))
                self.quarantine.kill()
            return
        serving = Runtime.objects.serving(now).values("service_id")
        if (
            Message.objects.due(now)
            .suspect()
            .unexpired(now)
            .filter(service_id__in=serving)
            .order_by("due_at")
            .values_list("pk")
            .first()
        ):
            self.quarantine.start()

    def _ask_for_lanes(self, count: int) -> None:
        from integrations.workers.tasks import queue_slice

        if not all(queue_slice(self.cluster) for _ in range(count)):
            # Without its queue (Redis is away) a new cluster would not start, and a lane of the old one may still run.
            self._all_beat = time.monotonic()

    def _quietly(self, step: Callable[..., None], *args: object) -> None:
        """The supervisor outlives its database: what cannot be asked now is asked in a second."""
        try:
            step(*args)
        except (DatabaseError, InterfaceError, RedisError, OSError) as error:
            connection.close()
            # Nobody can beat into a database that is away, so silence is no sign of a frozen cluster.
            self._all_beat = time.monotonic()
            log.warning(line("supervisor", error=str(error).partition("\n")[0]))

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _shut_down(self) -> None:
        """Lets calls in flight finish or go back, then ends what is left."""
        deadline = time.monotonic() + STOP_WITHIN
        os.close(self._our_end)  # the lanes see it and drain
        for listener in self._listeners:
            listener.close()
        children = [*self.web, self.quarantine, *self.others]
        for child in children:
            child.terminate()
        if self.workers:
            self._quietly(self._wait_for_lanes, deadline - 4)
            self.workers.terminate()
            children.append(self.workers)
        while any(child.is_running for child in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        for child in children:
            child.kill()
        self._quietly(self._forget_queue)

    def _wait_for_lanes(self, deadline: float) -> None:
        """django-q2 stops cleanly only when its workers are idle, so the lanes come first."""
        while time.monotonic() < deadline:
            lanes = Worker.objects.alive(database_now()).filter(cluster=self.cluster)
            # One that was killed keeps its lease for a while and will never say that it has stopped.
            if not any(_exists(pid) for pid in lanes.values_list("pid", flat=True)):
                return
            time.sleep(0.1)

    def _forget_queue(self) -> None:
        """The queue of this cluster ends with it: nobody else reads it."""
        from django_q.brokers import get_broker

        get_broker(self.cluster).delete_queue()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
