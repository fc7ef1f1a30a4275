"""A real PgBouncer before the PostgreSQL of a test run, as an unprivileged user."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from tests.support.backends import START_WITHIN, Servers, somebody_but_root
from tests.support.installation import free_port

# auth_type = any: each client is the user of the database's line.
CONFIGURATION = """
[databases]
* = host={postgres} user=postgres
[pgbouncer]
listen_port = {port}
unix_socket_dir = {folder}
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 200
query_wait_timeout = 10
{tls}
"""
TLS = """
listen_addr = 127.0.0.1
client_tls_sslmode = allow
client_tls_key_file = {folder}/key
client_tls_cert_file = {folder}/certificate
"""


class Pooler:
    """PgBouncer in a ``mode``, whose clients share ``size`` sessions of the server for each database. With a
    ``certificate`` for localhost it also speaks TLS."""

    def __init__(
        self, servers: Servers, mode: str, size: int = 40, certificate: trustme.LeafCert | None = None
    ) -> None:
        self._servers = servers
        servers.start("postgres")
        self.folder = Path(tempfile.mkdtemp(prefix=f"pgbouncer-{mode}-", dir=servers.folder))
        self.port = free_port()
        owner = somebody_but_root()
        if owner:
            shutil.chown(self.folder, owner["user"], owner["group"])
            self.folder.chmod(0o755)
        settings = self.folder / "pgbouncer.ini"
        settings.write_text(
            CONFIGURATION.format(
                postgres=servers.folder / "postgres",
                folder=self.folder,
                port=self.port,
                mode=mode,
                size=size,
                tls=TLS.format(folder=self.folder) if certificate else "",
            )
        )
        if certificate:
            certificate.private_key_pem.write_to_path(self.folder / "key")
            certificate.cert_chain_pems[0].write_to_path(self.folder / "certificate")
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [pgbouncer(), settings], stdin=subprocess.DEVNULL, stdout=output, stderr=output, **owner
            )
        self._wait()

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def url(self, direct: str) -> str:
        """The way through the pooler to the database of a URL of ``Servers``."""
        return f"postgres://postgres@{quote(str(self.folder), safe='')}:{self.port}/{direct.rpartition('/')[2]}"

    def tls_url(self, direct: str, authority: Path) -> str:
        """The same over TCP with TLS, for those who trust an authority."""
        name = direct.rpartition("/")[2]
        return f"postgres://postgres@localhost:{self.port}/{name}?sslmode=verify-full&sslrootcert={authority}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=15)

    def _wait(self) -> None:
        import psycopg

        deadline = time.monotonic() + START_WITHIN
        while True:
            try:
                psycopg.connect(self.url(self._servers.postgres_url())).close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"PgBouncer did not start:\n{self.log.read_text()[-2000:]}") from None
                time.sleep(0.05)


def pgbouncer() -> str:
    """Its path; without it the test is skipped, and fails where nothing may be missing."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None and os.environ.get("SWITCHBOARD_TEST_REQUIRE_BROWSER") == "1":
        pytest.fail("PgBouncer is missing: apt-get install pgbouncer")
    if found is None:
        pytest.skip("PgBouncer is missing: apt-get install pgbouncer")
    return found
