"""Compression of pages, exports and static files by Django's GZipMiddleware.

BREACH needs a secret and an attacker's text in one compressed response, requested many times. Here each response masks
the CSRF token differently, keys and tokens are shown once in the response to a POST, requests from another site do not
carry the session cookie (SameSite=Lax), and GZipMiddleware adds up to 100 random bytes to each response.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from gzip import GzipFile
from wsgiref.headers import Headers

from django.http import FileResponse, HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.middleware.gzip import GZipMiddleware, re_accepts_gzip
from django.utils.cache import patch_vary_headers
from django.utils.text import StreamingBuffer


class Compression(GZipMiddleware):
    """Compress complete responses of the console.

    A 304 must stay empty, and the bytes of a 206 are bytes of the uncompressed file. The API stays as it is: its native
    routes are not behind middleware, and a client gets the same response from a route as from a view.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.status_code in (206, 304) or request.path.startswith("/api/"):
            return response
        if isinstance(response, StreamingHttpResponse) and not isinstance(response, FileResponse):
            return self._export(request, response)
        return super().process_response(request, response)

    def _export(self, request: HttpRequest, response: StreamingHttpResponse) -> StreamingHttpResponse:
        patch_vary_headers(response, ["Accept-Encoding"])
        if re_accepts_gzip.search(request.META.get("HTTP_ACCEPT_ENCODING", "")):
            response.streaming_content = _compressed(response.streaming_content, self.max_random_bytes)  # type: ignore[arg-type]
            response["Content-Encoding"] = "gzip"
        return response


def _compressed(parts: Iterable[bytes], max_random_bytes: int) -> Iterator[bytes]:
    """One compressed part for each part. Django's own generator asks for the next parts until it has enough to send,
    so that a step of an export could become a search through all of history."""
    buffer = StreamingBuffer()
    name = "a" * secrets.randbelow(max_random_bytes)
    with GzipFile(name, "wb", compresslevel=6, fileobj=buffer, mtime=0) as file:
        for part in parts:
            file.write(part)
            file.flush()
            yield buffer.read()
    yield buffer.read()


def cache_headers(headers: Headers, path: str, url: str) -> None:
    """Give a static file, and its 304, the headers that let caches keep both forms of it.

    The ETag is weak: GZipMiddleware would make a strong one weak, and WhiteNoise compares the text.
    """
    found = os.stat(path)
    headers["ETag"] = f'W/"{found.st_mtime_ns:x}-{found.st_size:x}"'
    headers["Vary"] = "Accept-Encoding"
