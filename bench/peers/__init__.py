"""The peers, one module each: CONTENDERS lists its contenders. A new peer is a new file here."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from bench.contender import Contender


def contenders() -> list[Contender]:
    return [
        contender
        for module in iter_modules(__path__)
        for contender in getattr(import_module(f"{__name__}.{module.name}"), "CONTENDERS", [])
    ]
