"""Signs for systemd, which starts `up` as a service of Type=notify: sd_notify(3), without its library."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

READY, ALIVE, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"  # the second READY and all later ones say nothing new


def tell(*signs: str) -> None:
    """Send signs, if NOTIFY_SOCKET says where to. One that is lost stops no work."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # Linux's namespace of sockets without a file
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto("\n".join(signs).encode(), address)
