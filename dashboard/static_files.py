"""Static files as they are served: our own scripts and styles without their comments and indentation."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from django.conf import settings
from whitenoise.middleware import WhiteNoiseMiddleware

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_BLANK = re.compile(r"\s+")
_AROUND = re.compile(r"\s*([{};,>])\s*|(:) ")
_GOES_ON = re.compile(r"([{;,(])\n")
_SCRIPT_LINE = re.compile(r"^\s*(//.*|/\*\*.*\*/)?\n|^\s+|\s+// .*$", re.MULTILINE)


class SmallFiles(WhiteNoiseMiddleware):  # type: ignore[misc]  # it has no types
    """WhiteNoise over small copies of `static/`, made when a process starts: pages have a weight to keep to."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._copies = tempfile.TemporaryDirectory(prefix="switchboard-static-")
        super().__init__(*arguments, **options)

    def add_file_to_dictionary(self, url: str, path: str, stat_cache: Any = None) -> None:
        source = Path(path)
        smaller = {".css": small_style, ".js": small_script}.get(source.suffix)
        if smaller and source.parent in map(Path, settings.STATICFILES_DIRS):
            copy = Path(self._copies.name, source.name)
            copy.write_text(smaller(source.read_text()))
            path, stat_cache = str(copy), None
        super().add_file_to_dictionary(url, path, stat_cache=stat_cache)


def small_style(text: str) -> str:
    return _AROUND.sub(r"\1\2", _BLANK.sub(" ", _COMMENT.sub("", text))).replace(";}", "}").strip()


def small_script(text: str) -> str:
    """Without comments, indentation, and the line ends that mean nothing to JavaScript: those after ``{ ; , (``."""
    return _GOES_ON.sub(r"\1", _SCRIPT_LINE.sub("", text))
