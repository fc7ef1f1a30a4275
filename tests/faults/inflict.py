"""The faults: each a context manager, over when its block ends."""

from __future__ import annotations

import os
import random
import selectors
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.installation import Installation

HELD = "SET idle_in_transaction_session_timeout = 0"


# ---- processes ------------------------------------------------------------------------------------------------------
@contextmanager
def stopped(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """SIGSTOP: they neither go on nor die, as on a machine that swaps or is paused."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def kill_one(installation: Installation, roles: Sequence[str], dice: random.Random) -> str:
    """kill -9 of a random process of a random role; a killed `up` is started again. Returns the role.

    `up` is killed only once its lanes are there: on a slow machine it would be the only process there is.
    """
    tree = {role: found for role, found in installation.processes().items() if role in roles}
    if "lane" not in tree:
        tree.pop("up", None)
    if not tree:
        return "nothing"
    role = dice.choice(sorted(tree))
    process = dice.choice(tree[role])
    if role == "up":
        installation.kill()
        installation.start(wait=False)
    else:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return role


# ---- the database ---------------------------------------------------------------------------------------------------
@contextmanager
def foreign_lock(installation: Installation) -> Iterator[None]:
    """Another program holds SQLite's write lock, or a table of PostgreSQL."""
    if url := installation.env.get("SWITCHBOARD_DATABASE_URL"):
        import psycopg

        with psycopg.connect(url, autocommit=True) as session:
            session.execute(HELD)
            session.execute("BEGIN")
            session.execute("LOCK TABLE integrations_message IN EXCLUSIVE MODE")
            yield
            session.execute("ROLLBACK")
        return
    with closing(sqlite3.connect(installation.data / "switchboard.sqlite3", timeout=20, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def repeated(step: Callable[[], object], pause: float) -> Iterator[None]:
    """Do a step again and again, in a thread."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(pause):
            step()

    thread = threading.Thread(target=run, name="fault")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(timeout=30)


def terminate_backends(url: str) -> None:
    """End every session of a database, as a failover does."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as session:
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


# ---- a full disk ----------------------------------------------------------------------------------------------------
class SmallDisk:
    """A file system in memory. Where it cannot be mounted, `fill` fills nothing, and the test says so."""

    def __init__(self, folder: Path, size: str, owner: int = 0) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = f"size={size},mode=0700,uid={owner}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        self.is_mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
        if not self.is_mounted:
            warnings.warn("no tmpfs can be mounted here: no disk was filled", stacklevel=1)

    @contextmanager
    def full(self) -> Iterator[None]:
        ballast = self.folder / "ballast"
        if self.is_mounted:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        try:
            yield
        finally:
            ballast.unlink(missing_ok=True)

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
            self.is_mounted = False


# ---- the way to the database ----------------------------------------------------------------------------------------
COMMIT = b"COMMIT\0"


class Proxy:
    """Between an installation and PostgreSQL. It cuts connections at a COMMIT: before it gets there, or after, when the
    client no longer learns that it succeeded."""

    def __init__(self, socket_path: Path, seed: int = 1) -> None:
        self._path = socket_path
        self._dice = random.Random(seed)
        self.share = 0.0  # of the COMMITs that are cut
        self.before = self.after = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    @contextmanager
    def cutting(self, share: float) -> Iterator[None]:
        self.share = share
        try:
            yield
        finally:
            self.share = 0.0

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with client, server, suppress(OSError), selectors.DefaultSelector() as ready:
            server.connect(str(self._path))
            for one in (client, server):
                ready.register(one, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    received = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not received:
                        return
                    if key.fileobj is server:
                        client.sendall(received)
                    elif self._cuts(received):
                        if self._dice.random() < 0.5:
                            self.before += 1
                            return
                        server.sendall(received)
                        server.recv(65536)  # it has committed
                        self.after += 1
                        return
                    else:
                        server.sendall(received)

    def _cuts(self, sent: bytes) -> bool:
        return self.share > 0 and COMMIT in sent and self._dice.random() < self.share


def wait(seconds: float) -> None:
    """The duration of a fault, for which no condition stands."""
    time.sleep(seconds)
