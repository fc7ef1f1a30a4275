"""Run an installed `switchboard` in an empty folder and home until it has delivered a message: `try_wheel.py PROGRAM`.

It needs the standard library alone, so that it runs with each Python for which the wheel is made.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

WITHIN = 60.0  # seconds for the start with its migrations, and as many for the message


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()


def main(program: str) -> None:
    receiver = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    with TemporaryDirectory() as home, TemporaryDirectory() as folder:
        environment = {"PATH": os.environ["PATH"], "HOME": home, "SWITCHBOARD_ALLOW_PRIVATE": "127.0.0.0/8"}

        def run(*arguments: str) -> str:
            command = [program, *arguments]
            return subprocess.run(command, cwd=folder, env=environment, check=True, stdout=-1, text=True).stdout.strip()

        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        print(run("--version"), "on Python", sys.version.partition(" ")[0])
        up = subprocess.Popen([program, "up", "--port", url.rpartition(":")[2]], cwd=folder, env=environment)
        try:
            wait(lambda: answer(f"{url}/readyz"), "the console does not serve")
            headers = {"Authorization": f"Bearer {run('token', 'try', '--role', 'admin')}"}
            service = {"name": "receiver", "base_url": f"http://127.0.0.1:{receiver.server_port}"}
            answer(f"{url}/api/v1/services", service, headers)
            message = answer(f"{url}/api/v1/messages", {"service": "receiver", "path": "/", "body": {}}, headers)
            address = f"{url}/api/v1/messages/{message['id']}"
            wait(lambda: answer(address, None, headers)["status"] == "delivered", "the message is not delivered")
            print(run("doctor"))
        finally:
            up.terminate()
            up.wait()
        assert up.returncode == 0, up.returncode
        assert not list(Path(folder).iterdir()), "it left files in the folder in which it was started"


def answer(url: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json", **(headers or {})}), timeout=10) as response:
        return json.load(response)


def wait(condition: Callable[[], object], words: str) -> None:
    began = time.monotonic()
    while time.monotonic() - began < WITHIN:
        with suppress(OSError):
            if condition():
                return
        time.sleep(0.2)
    sys.exit(words)


if __name__ == "__main__":
    main(sys.argv[1])
