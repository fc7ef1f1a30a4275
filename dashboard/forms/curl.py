"""Parse a curl command, pasted from documentation or a browser's developer tools, into the parts of a call.

Nothing runs. Authentication is left out and reported, because the service adds its own; options about the connection
are ignored. An unknown option is refused, because without it the call could be a different one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from integrations.outbound.headers import FORBIDDEN_HEADERS

LIMIT = 64 * 1024  # characters of a command

_KINDS_OF_VALUES = {  # the meaning of an option's value
    "method": "-X --request",
    "header": "-H --header",
    "agent": "-A --user-agent",
    "data": "-d --data --data-ascii --data-binary",
    "raw": "--data-raw",
    "json": "--json",
    "url": "--url",
    "login": "-u --user --oauth2-bearer -b --cookie",
    "ignored": "-m --max-time --connect-timeout -o --output --retry -w --write-out",
}
_KINDS_OF_FLAGS = {
    "get": "-G --get",
    "head": "-I --head",
    "ignored": "-s --silent -S --show-error -i --include -v --verbose -f --fail -L --location -k --insecure "
    "--compressed --http1.1 --http2 -g --globoff -# --progress-bar",
}
_VALUES = {name: kind for kind, names in _KINDS_OF_VALUES.items() for name in names.split()}
_FLAGS = {name: kind for kind, names in _KINDS_OF_FLAGS.items() for name in names.split()}
_OF_SERVICE = {"authorization", "cookie", "accept-encoding"}
_C_QUOTED = re.compile(r"\$'((?:[^'\\]|\\.)*)'", re.DOTALL)  # browsers quote special characters this way

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}


@dataclass(slots=True)
class CurlCommand:
    """The call of a curl command. ``left_out`` names the options and headers that the lab does not send."""

    method: str = ""
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    left_out: list[str] = field(default_factory=list)

    @property
    def content_type(self) -> str:
        return next((value for name, value in self.headers.items() if name.lower() == "content-type"), "")


def read_curl(command: str) -> CurlCommand:
    """Parse a curl command. Raises ValueError with a text for the operator if it is not one, or cannot be repeated."""
    arguments = _arguments(command)
    if not arguments or arguments[0].rpartition("/")[2] != "curl":
        raise ValueError("Not a curl command: it must begin with curl")
    found, is_get = CurlCommand(), False
    for name, kind, value in _options(arguments[1:]):
        if kind == "url":
            found.url = found.url or value
        elif kind == "method":
            found.method = value.upper()
        elif kind in ("header", "agent"):
            _add_header(found, value if kind == "header" else f"User-Agent: {value}")
        elif kind in ("data", "raw", "json"):
            _add_data(found, kind, value)
        elif kind == "login":
            found.left_out.append(name)
        elif kind == "head":
            found.method = found.method or "HEAD"
        elif kind == "get":
            is_get = True
    if not found.url:
        raise ValueError("The command has no URL")
    if is_get and found.body:
        found.url += ("&" if "?" in found.url else "?") + found.body
        found.body = ""
    if found.body and not found.content_type:
        found.headers["Content-Type"] = "application/x-www-form-urlencoded"
    found.method = found.method or ("POST" if found.body else "GET")
    return found


def _arguments(command: str) -> list[str]:
    if len(command) > LIMIT:
        raise ValueError(f"The command is longer than {LIMIT:,} characters. Shorten it")
    lines = command.strip().replace("\\\r\n", " ").replace("\\\n", " ")
    try:
        return shlex.split(_C_QUOTED.sub(lambda quoted: shlex.quote(_unescaped(quoted[1])), lines))
    except ValueError:
        raise ValueError("A quote in the command is not closed") from None


def _unescaped(text: str) -> str:
    def character(escape: re.Match[str]) -> str:
        code = escape[1]
        return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPES.get(code, escape[0])

    return re.sub(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", character, text, flags=re.DOTALL)


def _options(arguments: list[str]) -> Iterator[tuple[str, str, str]]:
    """Each option as name, kind and value; an argument without an option is a ``url``."""
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument == "-":
            yield argument, "url", argument
        elif argument.startswith("--"):
            yield _option(*argument.partition("=")[::2], rest)
        else:
            letters = argument[1:]
            while letters:  # several in one argument: -sSXPOST
                name, letters = f"-{letters[0]}", letters[1:]
                yield _option(name, letters if name in _VALUES else "", rest)
                letters = "" if name in _VALUES else letters


def _option(name: str, value: str, rest: Iterator[str]) -> tuple[str, str, str]:
    if name in _FLAGS:
        return name, _FLAGS[name], ""
    if name not in _VALUES:
        raise ValueError(f"Unknown option {name[:40]}. Remove it if the call is the same without it")
    value = value or next(rest, "")
    if not value:
        raise ValueError(f"The option {name} has no value")
    return name, _VALUES[name], value


def _add_header(found: CurlCommand, line: str) -> None:
    name, _, value = (part.strip() for part in line.partition(":"))
    if name.lower() in _OF_SERVICE | FORBIDDEN_HEADERS or not value:
        if name.lower() in ("authorization", "cookie"):
            found.left_out.append(name)
        return
    found.headers[name] = value


def _add_data(found: CurlCommand, kind: str, value: str) -> None:
    if kind != "raw" and value.startswith("@"):
        raise ValueError("The body is in a file, which Switchboard cannot read. Put its content into the command")
    if kind == "json":
        for name in ("Content-Type", "Accept"):
            found.headers.setdefault(name, "application/json")
    # curl joins several --data to one form, and several --json to one text.
    found.body += ("&" if found.body and kind != "json" else "") + value
