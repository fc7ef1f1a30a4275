"""The supervisor behind `manage.py up`: it starts, watches and replaces the web servers and the django-q2 cluster.

django-q2's own guard does not notice a frozen cluster: an idle worker that is killed leaves the lock of the shared
queue held. So the supervisor trusts our own heartbeat rows only: if a lane stays silent although it was requested
again, it kills the process of that lane, which django-q2 replaces, and the others keep their calls in flight. If that
does not help, or no lane beats, it kills the whole process tree and starts it again.
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
from ipaddress import ip_address

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Max
from redis import RedisError

from integrations.logs import line
from integrations.models import BackupSchedule, Message, Runtime, WebServer, Worker, database_now, storage
from integrations.models.web_server import ANNOUNCE_AGAIN, ANNOUNCE_EVERY
from integrations.outbound.own_listeners import machine_addresses
from integrations.workers import service_manager
from integrations.workers.service_manager import ALIVE, READY, STOPPING

log = logging.getLogger("switchboard.up")

CHECK_EVERY = 1.0  # seconds between checks of the children and their heartbeats
QUIET = timedelta(seconds=7)  # a heartbeat comes every 5 s; after 7 s without one the lane is requested again
FROZEN = 15.0  # seconds with too few heartbeats before the silent lane, and as long again before the cluster, is killed
FORGOTTEN = timedelta(minutes=5)  # a lane that beat longer ago is dead, and its number may belong to another process
HUNG = 30.0  # seconds; a quarantine that has no live worker row this long after its start: more than a whole lease
WEB_HUNG = 15.0  # seconds without a heartbeat of a web server, which beats once a second
WEB_STARTS_WITHIN = 60.0  # seconds to its first heartbeat: a start takes some seconds of CPU
STALL = 5.0  # seconds between two checks of the children that mean that the supervisor itself stood still
STOP_WITHIN = 18.0  # seconds; docs/contract.md promises 20
BACKLOG = 2048  # connections waiting to be accepted
LOOK_FOR_BACKUPS = 30.0  # seconds between two looks whether a backup is due, a quarter of the lease of one
REMIND_EVERY = 60.0  # seconds between two prints of the set-up link, which logs push out of sight
RESTART_PAUSE = (0.2, 1.0, 2.0, 5.0)


# ---- a process tree that dies with its parent ---------------------------------------------------------------------
def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, and the same for every process forked from it.

    django-q2's sentinel, workers, pusher and monitor are forks, and an orphan would go on delivering. Linux only;
    elsewhere a lane ends when the lifeline closes.
    """
    if "SWITCHBOARD_PARENT" not in os.environ:
        return  # started from a shell, not by the supervisor
    expected = int(os.environ["SWITCHBOARD_PARENT"])
    _kill_on_death_of(expected)

    def note_parent() -> None:
        nonlocal expected
        expected = os.getpid()

    os.register_at_fork(before=note_parent, after_in_child=lambda: _kill_on_death_of(expected))


def _kill_on_death_of(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)
    if os.getppid() != parent:  # it died before the request took effect
        os._exit(1)


def run_cluster() -> None:
    """Run the main process of a django-q2 cluster until SIGTERM, or the death of its parent or its monitor."""
    from django_q import cluster

    class Sentinel(cluster.Sentinel):  # type: ignore[misc]
        def reincarnate(self, process: object) -> None:
            """Replace a process that died, but restart the whole cluster if it was the monitor.

            A dead monitor leaves the lock of the result queue held. No later monitor could acknowledge a slice, so
            each slice would come back forever.
            """
            if process is self.monitor:
                log.error(line("monitor died", cluster=settings.CLUSTER))
                os._exit(1)  # the other processes die with it
            super().reincarnate(process)

    die_with_parent()
    cluster.Sentinel = Sentinel
    cluster.Cluster().start()


# ---- signs of life -------------------------------------------------------------------------------------------------
class Heartbeat:
    """A pipe in which a web server writes a byte a second, from the loop that answers `/healthz`.

    A request from outside would not do: the kernel chooses which of several web servers gets it.
    """

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        for end in (self._read_end, self.write_end):
            os.set_blocking(end, False)
        self.restart(time.monotonic())

    @property
    def is_first_awaited(self) -> bool:
        """Whether the process has not beaten since its start."""
        return self._patience == WEB_STARTS_WITHIN

    def restart(self, moment: float) -> None:
        self._has_beaten()  # the bytes of the process before
        self._last = self._looked = moment
        self._patience = WEB_STARTS_WITHIN

    def is_lost(self, moment: float) -> bool:
        """Whether the process has been silent for too long. Ask once a second."""
        if self._has_beaten():
            self._last, self._patience = moment, WEB_HUNG
        elif moment - self._looked > STALL:
            self._last = moment  # what stopped the supervisor may have stopped the child too
        self._looked = moment
        return moment - self._last > self._patience

    def _has_beaten(self) -> bool:
        try:
            return bool(os.read(self._read_end, 65536))
        except BlockingIOError:
            return False


def beat(heartbeat: int) -> None:
    """Write a sign of life; a pipe that is full, because no supervisor reads it, has enough of them."""
    with suppress(BlockingIOError):
        os.write(heartbeat, b".")


# ---- one child ----------------------------------------------------------------------------------------------------
class Child:
    """A child process in a session of its own, restarted when it ends."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: dict[str, str],
        fds: tuple[int, ...] = (),
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self.name, self.arguments, self.environment, self.fds = name, arguments, environment, fds
        self.heartbeat = heartbeat
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.ends = 0

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        command = [*settings.COMMAND_LINE, *self.arguments]
        self.process = subprocess.Popen(  # noqa: S603 - our own command line
            command, env=self.environment, pass_fds=self.fds, start_new_session=True
        )
        self.started = time.monotonic()
        if self.heartbeat:
            self.heartbeat.restart(self.started)
        log.info(line("started", child=self.name, pid=self.process.pid))

    def has(self, pid: int) -> bool:
        """Whether a process lives in the session of this child: a number may have gone to another program."""
        with suppress(ProcessLookupError):
            return pid > 0 and self.process is not None and os.getsid(pid) == self.process.pid
        return False

    def keep_running(self) -> bool:
        """Start the process if it does not run, after a growing pause. Returns whether it was started now."""
        if self.is_running:
            if time.monotonic() - self.started > 60:
                self.ends = 0
            return False
        if self.process is not None:
            pause = RESTART_PAUSE[min(self.ends, len(RESTART_PAUSE) - 1)]
            if time.monotonic() - self.started < pause:
                return False
            self.ends += 1
            self._kill_session()
            log.warning(line("ended", child=self.name, code=self.process.returncode))
        self.start()
        return True

    def kill_if_hung(self) -> None:
        """Kill a process that runs and gives no sign of life; `keep_running` starts it again."""
        if self.heartbeat and self.is_running and self.heartbeat.is_lost(time.monotonic()):
            log.warning(line("hung", child=self.name))
            self.kill()

    def terminate(self) -> None:
        if self.process is not None and self.is_running:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process and its whole session, whatever state they are in."""
        if self.process is not None:
            self._kill_session()
            self.process.wait()

    def _kill_session(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


# ---- the listening sockets ----------------------------------------------------------------------------------------
def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Open ``count`` sockets on one address; the kernel spreads connections over them (SO_REUSEPORT).

    The supervisor holds them, so a connection that comes while a web server restarts waits and is not refused.
    Raises OSError if another process listens there: a plain socket is opened first, which fails then.
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
    """The children of one `manage.py up`: web servers, the cluster, and a quarantine while there are suspects.

    ``web`` is the number of web servers; ``others`` are further commands of manage.py to keep running, by name.
    ``remind`` is called once the console serves, and again every minute, until it returns False.
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
        remind: Callable[[], bool] | None = None,
    ) -> None:
        self.lanes = lanes
        self.cluster = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.lifeline, self._lifeline_end = os.pipe()  # read by the lanes, held open by us
        environment = {
            **os.environ,
            "SWITCHBOARD_PARENT": str(os.getpid()),
            "SWITCHBOARD_CLUSTER": self.cluster,
            "SWITCHBOARD_LANES": str(lanes),
        }
        self._listeners = listen(host, port, web)
        # Its own workers know it at once, others by the announcement.
        own_ports = [*settings.OWN_PORTS, *({str(listener.getsockname()[1]) for listener in self._listeners})]
        environment["SWITCHBOARD_OWN_PORT"] = ",".join(own_ports)
        with_lifeline = {**environment, "SWITCHBOARD_LIFELINE": str(self.lifeline)}
        self.web = [_web(number, listener, environment) for number, listener in enumerate(self._listeners, 1)]
        self.workers = Child("cluster", ["cluster"], with_lifeline, (self.lifeline,)) if workers else None
        self.quarantine = Child("quarantine", ["deliver", "--suspects"], with_lifeline, (self.lifeline,))
        self.others = [Child(name, arguments, environment) for name, arguments in (others or {}).items()]
        self.sandbox = Child("sandbox", [], environment)
        self.backup = Child("backup", ["backup", "--scheduled"], environment)
        self.stopping = False
        self._remind, self._next_reminder = remind, 0.0
        self._last_request = self._last_all_alive = time.monotonic()
        self._has_killed_lane = False  # since all lanes were last alive
        self._next_announcement = self._next_look_for_backups = 0.0

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then stop cleanly."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            while not self.stopping:
                self._tolerate_outage(self._announce)
                for child in (*self.web, *self.others):
                    child.keep_running()
                    child.kill_if_hung()
                if self.workers:
                    self._keep_workers(self.workers)
                    self._tolerate_outage(self._keep_sandbox)
                    self._tolerate_outage(self._keep_backups)
                self._tolerate_outage(self._remind_again)
                service_manager.tell(*([READY, ALIVE] if self._is_serving else [ALIVE]))
                self._pause(CHECK_EVERY)
        finally:
            self._shut_down()

    def _stop(self, number: int, _frame: object) -> None:
        log.info(line("stopping", signal=signal.Signals(number).name))
        self.stopping = True

    def _announce(self) -> None:
        """Write where the console listens into the database: first before it serves, then every half minute."""
        if not self._listeners or time.monotonic() < self._next_announcement:
            return
        self._next_announcement = time.monotonic() + ANNOUNCE_AGAIN
        address, port = self._listeners[0].getsockname()[:2]
        is_every = ip_address(address).is_unspecified
        addresses = machine_addresses() if is_every else [address]
        WebServer.objects.announce(
            self.cluster, host=socket.gethostname(), port=port, addresses=addresses, now=database_now()
        )
        self._next_announcement = time.monotonic() + ANNOUNCE_EVERY

    @property
    def _is_serving(self) -> bool:
        return not any(child.heartbeat and child.heartbeat.is_first_awaited for child in self.web)

    def _remind_again(self) -> None:
        if self._remind and self._is_serving and time.monotonic() >= self._next_reminder:
            self._next_reminder = time.monotonic() + REMIND_EVERY
            if not self._remind():
                self._remind = None

    def _keep_sandbox(self) -> None:
        """Serve the sandbox while its services are registered: an operator adds and deletes them in the console."""
        from integrations.registration import sandbox

        if any(child.name == self.sandbox.name for child in self.others):
            return  # `manage.py demo` runs its own
        if port := sandbox.registered_port():
            self.sandbox.arguments = ["demo", "--only-sandbox", "--no-traffic", "--sandbox-port", str(port)]
            self.sandbox.keep_running()
        elif self.sandbox.is_running:
            self.sandbox.kill()

    def _keep_backups(self) -> None:
        """Start the backup that is due, in a process of its own, unless another cluster writes it."""
        if time.monotonic() < self._next_look_for_backups:
            return
        self._next_look_for_backups = time.monotonic() + LOOK_FOR_BACKUPS
        now = database_now()
        if self.backup.is_running:
            BackupSchedule.objects.renew(self.cluster, now)
            return
        if self.backup.process is not None:  # it notes its result, unless it was killed
            code = self.backup.process.returncode
            BackupSchedule.objects.note_failure(self.cluster, f"its process ended with code {code}", now)
        if BackupSchedule.objects.begin(self.cluster, now):
            self.backup.start()

    def _keep_workers(self, workers: Child) -> None:
        if workers.keep_running():
            self._last_request = self._last_all_alive = time.monotonic()
            self._tolerate_outage(self._request_lanes, self.lanes)
        self._tolerate_outage(self._watch, workers)

    def _watch(self, workers: Child) -> None:
        now, moment = database_now(), time.monotonic()
        beating = Worker.objects.alive(now).filter(cluster=self.cluster, heartbeat_at__gt=now - QUIET).count()
        if beating >= self.lanes:
            self._last_all_alive, self._has_killed_lane = moment, False
        elif moment - self._last_all_alive > FROZEN:
            self._end_silence(workers, now, beating)
        elif moment - self._last_request > QUIET.total_seconds():
            self._last_request = moment
            if not storage.trouble():  # to queue a slice would wait for SQLite's lock for 20 s, and then fail
                self._request_lanes(self.lanes - beating)
        self._watch_quarantine(now, moment)

    def _end_silence(self, workers: Child, now: datetime, beating: int) -> None:
        """Kill the smallest part that makes lanes beat again, or none while the database takes no writes."""
        no_writes = storage.trouble()
        if no_writes and workers.has(no_writes.holder):
            log.warning(line("frozen lane", cluster=self.cluster, pid=no_writes.holder, because=no_writes.text))
            os.kill(no_writes.holder, signal.SIGKILL)  # it stands still with SQLite's write lock
        elif no_writes and not (no_writes.is_lock and connection.vendor == "sqlite" and not no_writes.holder):
            # A new cluster could not write heartbeats either, and the results that the lanes hold would be lost.
            log.warning(line("silent lanes are left alone", cluster=self.cluster, because=no_writes.text))
        elif beating and not self._has_killed_lane and self._kill_silent_lanes(workers, now):
            self._has_killed_lane = True
            self._last_request = time.monotonic()  # the new process finds the slice that was requested
        else:  # with no lane left, all of them hang on something that they share
            log.warning(line("frozen", cluster=self.cluster, beating=beating, lanes=self.lanes))
            workers.kill()
        self._last_all_alive = time.monotonic()  # each step has time to help

    def _kill_silent_lanes(self, workers: Child, now: datetime) -> bool:
        """Kill the lanes that live and do not beat. Returns whether there was one.

        A lane that stands still in its slice holds no lock of django-q2's queue, unlike one that waits for a slice.
        """
        # By now another lane may have taken its claims and marked it lost; a lane that goes on has a newer row.
        beats = Worker.objects.filter(cluster=self.cluster).values("pid").annotate(newest=Max("heartbeat_at"))
        silent = beats.filter(newest__lte=now - QUIET, newest__gt=now - FORGOTTEN)
        killed = False
        for pid in silent.values_list("pid", flat=True):
            if workers.has(pid):
                log.warning(line("frozen lane", cluster=self.cluster, pid=pid))
                os.kill(pid, signal.SIGKILL)
                killed = True
        return killed

    def _watch_quarantine(self, now: datetime, moment: float) -> None:
        """Start the quarantine while suspects are due, and kill it if a poisonous message made it hang."""
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

    def _request_lanes(self, count: int) -> None:
        from integrations.workers.tasks import queue_slice

        if not all(queue_slice(self.cluster) for _ in range(count)):
            # While the queue (Redis, for example) is unreachable, a new cluster would not start, and a lane of the old
            # one may still run.
            self._last_all_alive = time.monotonic()

    def _tolerate_outage(self, step: Callable[..., None], *args: object) -> None:
        """Run a step that may fail while the database or queue is unreachable: it is repeated in a second."""
        try:
            step(*args)
        except (DatabaseError, InterfaceError, RedisError, OSError) as error:
            connection.close()
            # Lanes cannot write heartbeats either, so their silence does not mean that the cluster is frozen.
            self._last_all_alive = time.monotonic()
            log.warning(line("supervisor", error=str(error).partition("\n")[0]))

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _shut_down(self) -> None:
        """Let calls in flight finish or return to pending, then kill the remaining processes."""
        deadline = time.monotonic() + STOP_WITHIN
        service_manager.tell(STOPPING)
        os.close(self._lifeline_end)  # the lanes notice and drain
        for listener in self._listeners:
            listener.close()
        children = [*self.web, self.quarantine, self.sandbox, self.backup, *self.others]
        for child in children:
            child.terminate()
        if self.workers:
            self._tolerate_outage(self._wait_for_lanes, deadline - 4)
            self.workers.terminate()
            children.append(self.workers)
        while any(child.is_running for child in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        for child in children:
            child.kill()
        self._tolerate_outage(self._delete_queue)
        if self.backup.process is not None:
            self._tolerate_outage(BackupSchedule.objects.give_up, self.cluster)
        if self._listeners and time.monotonic() < deadline - 4:  # an unreachable database takes 5 s; the row lapses
            self._tolerate_outage(self._withdraw)

    def _wait_for_lanes(self, deadline: float) -> None:
        """Wait until the lanes have stopped: django-q2 stops cleanly only if its workers are idle."""
        while time.monotonic() < deadline:
            lanes = Worker.objects.alive(database_now()).filter(cluster=self.cluster)
            # A killed lane keeps its lease for up to 20 s and never reports its stop.
            if not any(_exists(pid) for pid in lanes.values_list("pid", flat=True)):
                return
            time.sleep(0.1)

    def _withdraw(self) -> None:
        WebServer.objects.withdraw(self.cluster)

    def _delete_queue(self) -> None:
        """Delete the queue of this cluster, which no other cluster reads."""
        from django_q.brokers import get_broker

        get_broker(self.cluster).delete_queue()


def _web(number: int, listener: socket.socket, environment: dict[str, str]) -> Child:
    heartbeat = Heartbeat()
    fds = (listener.fileno(), heartbeat.write_end)
    arguments = ["serve", "--fd", str(fds[0]), "--heartbeat", str(fds[1])]
    return Child(f"web-{number}", arguments, environment, fds, heartbeat)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
