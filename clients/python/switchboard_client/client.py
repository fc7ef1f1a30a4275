"""The client: one method for each call of the API that a sender needs."""

from __future__ import annotations

import json
import random
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Self, TypedDict, Unpack, cast
from urllib.parse import quote
from uuid import uuid4

import httpx

from switchboard_client import backoff
from switchboard_client.errors import Refused, SwitchboardError, Unavailable
from switchboard_client.responses import Attempt, BatchResult, Message, ProcessResult

ATTEMPTS = 5  # with the waits below about 8 s in all, longer than a restart of the web server
INITIAL_WAIT = 0.5  # seconds
LONGEST_WAIT = 10.0  # seconds
CONNECT_TIMEOUT = 5.0  # seconds
TIMEOUT = 10.0  # seconds without a byte, on either side
PROCESS_MARGIN = 5.0  # seconds that a direct call may take beyond its own timeout
LONGEST_PROCESS = 300.0  # seconds; no call to a service takes longer


class CallFields(TypedDict, total=False):
    """The fields of a request to a service: an endpoint, or a path with a method (default POST)."""

    endpoint: str
    method: str
    path: str
    query: Mapping[str, Any]
    headers: Mapping[str, str]
    body: Any  # any JSON value
    body_bytes: bytes  # instead of body: sent byte for byte
    content_type: str


class MessageFields(CallFields, total=False):
    ordering_key: str
    deliver_at: datetime  # with a time zone
    expires_at: datetime  # with a time zone
    tags: Mapping[str, str]


class Client:
    """A client for one installation. Threads may share it; close it, or use it in a ``with`` block.

    A request that gets no answer, or 408, 429 or 5xx, is sent again with the same ``Idempotency-Key`` up to
    ``attempts`` times. ``initial_wait`` and ``longest_wait`` bound the seconds in between. ``timeout``: seconds without
    a byte. ``transport``: for tests and proxies, see httpx.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        attempts: int = ATTEMPTS,
        initial_wait: float = INITIAL_WAIT,
        longest_wait: float = LONGEST_WAIT,
        timeout: float = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._attempts = attempts
        self._initial_wait = initial_wait
        self._longest_wait = longest_wait
        self._timeout = timeout
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1",
            headers={"Authorization": f"Bearer {token}", "User-Agent": "switchboard-client"},
            timeout=self._timeouts(timeout),
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ---- send ----
    def send(self, service: str, *, idempotency_key: str | None = None, **fields: Unpack[MessageFields]) -> Message:
        """Queue a message. When this returns, it is stored.

        Give an ``idempotency_key`` that follows from your own data, such as ``order-42``, if your program may call this
        again for the same thing; without one, the retries of this call share a random key.
        """
        return cast(Message, self._post("/messages", encode_message(service, **fields), idempotency_key or new_key()))

    def send_many(self, messages: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None) -> BatchResult:
        """Queue up to 1,000 messages in one transaction. An invalid one does not reject the others.

        Each has ``service`` and the fields of `send`.
        """
        return self.send_many_encoded([encode_message(**message) for message in messages], idempotency_key)

    def send_many_encoded(self, encoded: Sequence[bytes], idempotency_key: str | None = None) -> BatchResult:
        """The same for messages that `encode_message` has made. The same key needs the same bytes."""
        content = b'{"messages":[' + b",".join(encoded) + b"]}"
        return cast(BatchResult, self._post("/messages/batch", content, idempotency_key or new_key()))

    def process(self, service: str, *, timeout: float | None = None, **fields: Unpack[CallFields]) -> ProcessResult:
        """Call a service now and return its response.

        It takes no idempotency key, so it is sent again only if the call cannot have been made: no connection to
        Switchboard, or 429.
        """
        fields_given = _message(service, **fields) | ({} if timeout is None else {"timeout": timeout})
        longest = (timeout or LONGEST_PROCESS) + PROCESS_MARGIN
        return cast(ProcessResult, self._post("/process", _json(fields_given), None, timeout=longest))

    # ---- find ----
    def get(self, message_id: str) -> Message:
        """Return a message with its headers and body."""
        return cast(Message, self._request("GET", _path("messages", message_id)))

    def attempts(self, message_id: str) -> Iterator[Attempt]:
        """Yield the calls made for a message, oldest first."""
        return cast(Iterator[Attempt], self._pages(_path("messages", message_id, "attempts"), {}))

    def search(self, q: str = "", **filters: str | int | bool) -> Iterator[Message]:
        """Yield messages without headers and bodies, newest first; further pages are read on the way.

        ``q`` is a search as in the console, such as ``service:billing status:dead``. ``filters`` are the parameters of
        ``GET /messages``, such as ``status="dead"``.
        """
        given = {name: str(value).lower() if isinstance(value, bool) else value for name, value in filters.items()}
        return cast(Iterator[Message], self._pages("/messages", {"q": q, **given} if q else given))

    # ---- replay ----
    def replay(
        self,
        message_id: str,
        *,
        mode: Literal["as_is", "current"] = "as_is",
        idempotency_key: str | None = None,
        **changes: Any,
    ) -> Message:
        """Queue a finished message again, and return the new one. ``changes``: ``body``, ``headers`` or ``endpoint``.

        While a replay of the message is unfinished, that one is returned.
        """
        encoded = _json({"mode": mode, **changes})
        path = _path("messages", message_id, "replay")
        return cast(Message, self._post(path, encoded, idempotency_key or new_key()))

    # ---- requests ----
    def _pages(self, path: str, parameters: Mapping[str, str | int]) -> Iterator[Any]:
        cursor: str | None = None
        while True:
            page = self._request("GET", path, params={**parameters, **({"cursor": cursor} if cursor else {})})
            yield from page["items"]
            if (cursor := page["next_cursor"]) is None:
                return

    def _post(self, path: str, content: bytes, key: str | None, *, timeout: float | None = None) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        return self._request(
            "POST", path, key=key, content=content, headers=headers, timeout=self._timeouts(timeout or self._timeout)
        )

    def _request(self, method: str, path: str, *, key: str | None = None, **options: Any) -> Any:
        failures = 0
        while True:
            retry_after = None
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
                never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
            else:
                if response.status_code not in backoff.TRANSIENT:
                    return _answer(response)
                reason = f"{response.status_code} {response.reason_phrase}"
                never_sent = response.status_code == 429
                retry_after = backoff.seconds(response.headers.get("Retry-After"))
            failures += 1
            if failures >= self._attempts or not (method == "GET" or key or never_sent):
                raise Unavailable(reason, key, retry_after)
            time.sleep(
                backoff.delay(failures, self._initial_wait, self._longest_wait, retry_after, random.random())  # noqa: S311
            )

    @staticmethod
    def _timeouts(seconds: float) -> httpx.Timeout:
        return httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT))


def new_key() -> str:
    return str(uuid4())


def encode_message(service: str, **fields: Unpack[MessageFields]) -> bytes:
    """Return the request's body. It is made once: a repeated Idempotency-Key needs the same bytes."""
    return _json(_message(service, **fields))


def _message(service: str, **fields: Any) -> dict[str, Any]:
    message = {"service": service, **fields}
    if (content := message.pop("body_bytes", None)) is not None:
        message["body_base64"] = b64encode(content).decode()
    for name in ("deliver_at", "expires_at"):
        if (moment := message.get(name)) is not None:
            if moment.tzinfo is None:
                raise ValueError(f"{name} needs a time zone")
            message[name] = moment.isoformat()
    return message


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _path(*parts: str) -> str:
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _answer(response: httpx.Response) -> Any:
    """Return the document of a 2xx. Raises Refused for a 4xx, SwitchboardError for another server's answer."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if response.is_success and isinstance(document, dict):
        return document
    problem = document if isinstance(document, dict) else {}
    if response.is_client_error:
        title, detail = problem.get("title", response.reason_phrase), problem.get("detail", response.text[:200])
        raise Refused(response.status_code, title, detail, problem.get("errors") or [])
    raise SwitchboardError(f"{response.request.url} answered {response.status_code}, not as Switchboard does")
