"""Machines for a test: network namespaces with host names of their own, joined to us by two networks.

On the *data* network are the database and Redis, on the *world* network the receivers. A cut takes a machine off the
data network without notice: packets vanish, as with a pulled cable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from typing import Self

NETWORK = "10.{}.{}"  # of which .1/27 is the data network, .65/27 the world network
# Waits for the end of the test, however it ends, and takes everything down again.
UNDO = "trap '' INT TERM HUP; read -r _; {}"
NAMED = 'ip link set lo up; hostname "$0"; exec "$@"'

_numbers = count()


def are_possible() -> bool:
    """Whether this system lets us make network namespaces."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        return False
    name = f"sb{os.getpid()}try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    bridged = subprocess.run(["ip", "link", "add", f"{name}b", "type", "bridge"], capture_output=True).returncode == 0
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    subprocess.run(["ip", "link", "del", f"{name}b"], capture_output=True)
    return made and bridged


class Machines:
    """Some machines, by name; `with Machines("east", "west") as machines`."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self._prefix = f"sb{os.getpid()}{chr(97 + next(_numbers) % 26)}"
        pid = os.getpid()
        self._network = NETWORK.format(128 + pid // 250 % 100, pid % 250)
        self.data, self.world = f"{self._network}.1", f"{self._network}.65"  # our addresses on both

    def inside(self, name: str) -> tuple[str, ...]:
        """The prefix that runs a command on the machine."""
        return ("ip", "netns", "exec", self._space(name), "unshare", "--uts", "sh", "-c", NAMED, name)

    def cut(self, name: str) -> None:
        """Takes a machine off the data network."""
        _ip("link", "set", "dev", f"{self._space(name)}d", "down")

    def join(self, name: str) -> None:
        _ip("link", "set", "dev", f"{self._space(name)}d", "up")

    def __enter__(self) -> Self:
        bridges = [f"{self._prefix}d", f"{self._prefix}w"]
        undo = [f"ip netns del {self._space(name)}" for name in self.names]
        undo += [f"ip link del {link}" for link in [*self._ends(), *bridges]]
        self._undo = subprocess.Popen(
            ["sh", "-c", UNDO.format("; ".join(undo))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # a namespace that was not made cannot be removed
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("SWITCHBOARD_")},
        )
        try:
            for bridge, address in zip(bridges, (self.data, self.world), strict=True):
                _ip("link", "add", bridge, "type", "bridge")
                _ip("address", "add", f"{address}/27", "dev", bridge)
                _ip("link", "set", bridge, "up")
            for number, name in enumerate(self.names):
                self._add(name, number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._undo.stdin
        self._undo.stdin.close()
        self._undo.wait(timeout=30)

    def _add(self, name: str, number: int) -> None:
        space = self._space(name)
        _ip("netns", "add", space)
        for letter, first in (("d", 2), ("w", 66)):
            _ip("link", "add", f"{space}{letter}", "type", "veth", "peer", "name", letter, "netns", space)
            _ip("link", "set", f"{space}{letter}", "master", f"{self._prefix}{letter}", "up")
            _ip("-n", space, "address", "add", f"{self._network}.{first + number}/27", "dev", letter)
            _ip("-n", space, "link", "set", "dev", letter, "up")

    def _space(self, name: str) -> str:
        return f"{self._prefix}{self.names.index(name)}"

    def _ends(self) -> Sequence[str]:
        return [f"{self._space(name)}{letter}" for name in self.names for letter in "dw"]


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
