"""Compression of pages, exports and static files by Django's GZipMiddleware.

BREACH needs a secret and an attacker's text in one compressed response, requested many times. Here each response masks
the CSRF token differently, keys and tokens are shown once in the response to a POST, requests from another site do not
carry the session cookie (SameSite=Lax), and GZipMiddleware adds up to 100 random bytes to each response.
"""

from __future__ import annotations

import os
from wsgiref.headers import Headers

from django.http import HttpRequest, HttpResponseBase
from django.middleware.gzip import GZipMiddleware


class Compression(GZipMiddleware):
    """Compress complete responses of the console.

    A 304 must stay empty, and the bytes of a 206 are bytes of the uncompressed file. The API stays as it is: its native
    routes are not behind middleware, and a client gets the same response from a route as from a view.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.status_code in (206, 304) or request.path.startswith("/api/"):
            return response
        return super().process_response(request, response)


def cache_headers(headers: Headers, path: str, url: str) -> None:
    """Give a static file, and its 304, the headers that let caches keep both forms of it.

    The ETag is weak: GZipMiddleware would make a strong one weak, and WhiteNoise compares the text.
    """
    found = os.stat(path)
    headers["ETag"] = f'W/"{found.st_mtime_ns:x}-{found.st_size:x}"'
    headers["Vary"] = "Accept-Encoding"
