"""Queues a run's messages by the peer's own means: `python -m bench.apps.queue bench.apps.huey 3000`."""

from __future__ import annotations

import sys
from importlib import import_module

from bench.messages import body


def main() -> None:
    app = import_module(sys.argv[1])
    for number in range(int(sys.argv[2])):
        app.queue(number, body(number).decode())


if __name__ == "__main__":
    main()
