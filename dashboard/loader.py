"""Templates without the indentation of their lines, which would be a tenth of a page's weight."""

from __future__ import annotations

import re

from django.template import Origin
from django.template.loaders.filesystem import Loader as FilesystemLoader

_INDENTATION = re.compile(r"^[ \t]+", re.MULTILINE)
_AS_IT_IS = re.compile(r"(<(?:pre|textarea)\b.*?</(?:pre|textarea)>)", re.DOTALL)


class Loader(FilesystemLoader):
    def get_contents(self, origin: Origin) -> str:
        """The template's source; what stands in ``<pre>`` and ``<textarea>`` stays as it is."""
        parts = _AS_IT_IS.split(super().get_contents(origin))
        return "".join(part if place % 2 else _INDENTATION.sub("", part) for place, part in enumerate(parts))
