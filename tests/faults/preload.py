"""Code that the processes of an installation load at their start: messages that kill a worker, and clocks."""

from __future__ import annotations

import shutil
import struct
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.installation import Installation

# Python imports a module of this name at its start. It changes the function that makes a lane's calls.
POISON = """
import ctypes, importlib.util, os, sys, time

TAKEN = "integrations.delivery.send"

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != TAKEN:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            module.send = poisonous(module.send)

        spec.loader.exec_module = execute_and_change
        return spec

def poisonous(send):
    async def changed(client, claimed, now):
        form = claimed.message.path.partition("/poison/")[2]
        if form == "exit":
            os._exit(9)
        if form == "segv":
            ctypes.string_at(0)
        if form == "hang":
            time.sleep(3600)
        result = await send(client, claimed, now)
        if form == "late":
            os._exit(9)
        return result
    return changed

sys.meta_path.insert(0, Finder())
"""


def poison(installation: Installation, folder: Path) -> None:
    """Make the paths /poison/exit, segv, hang and late kill the worker that calls them; late: after the call."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(POISON)
    installation.env["PYTHONPATH"] = str(folder)


# The monotonic clock is left alone, as by a clock that is set.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long long *ahead;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_AHEAD"), O_RDONLY);
    real = dlsym(RTLD_NEXT, "clock_gettime");
    if (file >= 0) ahead = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
}
int clock_gettime(clockid_t id, struct timespec *at) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, at);
    if (ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += *ahead;
    return result;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return result;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


class Clock:
    """The clock of an installation's processes. Where no C compiler is, it cannot be set, and the test says so."""

    def __init__(self, installation: Installation, folder: Path) -> None:
        folder.mkdir()
        source, library, self._file = folder / "clock.c", folder / "clock.so", folder / "ahead"
        source.write_text(SHIM)
        self.set(0)
        compiler = shutil.which("cc") or shutil.which("gcc")
        command = [compiler or "", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        self.can_be_set = bool(compiler) and subprocess.run(command, capture_output=True).returncode == 0
        if self.can_be_set:
            installation.env |= {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(self._file)}
        else:
            warnings.warn("no C compiler here: no clock was set", stacklevel=1)

    def set(self, seconds: int) -> None:
        """Set it ahead of the true time by so many seconds; negative: behind."""
        mode = "r+b" if self._file.exists() else "wb"
        with self._file.open(mode) as file:
            file.write(struct.pack("q", seconds))

    @contextmanager
    def ahead(self, seconds: int) -> Iterator[None]:
        self.set(seconds)
        try:
            yield
        finally:
            self.set(0)
