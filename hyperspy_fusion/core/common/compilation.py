"""How kernels are compiled and cached.

A kernel is called from Python. Its parts are inlined into it: what the compiler leaves
as a call is rounded differently when it is loaded from Numba's cache.
"""

import atexit
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core.caching import FunctionCache

# Unsigned indices avoid Numba's wraparound check, which blocks vectorisation. Without
# Numba they are whole numbers: NumPy 1 makes floats of some of their sums.
index = int if numba.config.DISABLE_JIT else np.uintp
_logger = logging.getLogger(__name__)
_watchers: list[Callable[[str | None], None]] = []  # of all threads


@contextmanager
def compiling_seen_by(watcher: Callable[[str | None], None]) -> Iterator[None]:
    """Context manager that tells when kernels are compiled, in any thread.

    ``watcher(name)`` is called when the compiler starts on a kernel since no cache
    holds it, ``watcher(None)`` when it is done.
    """
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def _notify(name: str | None) -> None:
    for watcher in tuple(_watchers):
        watcher(name)


def _options(*, fastmath: bool | set[str]) -> dict[str, Any]:
    # Python's error model would look for zeros in front of each division: a loop that
    # can raise is not vectorised.
    return {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}


@cache
def _no_references() -> dict[str, bool]:
    """Option of Numba for functions that count no references; it is a private one."""
    option = {"_nrt": False}
    try:
        numba.njit(**option)(lambda: None)
    except KeyError:  # slower, but right
        return {}
    return option


def section(*, fastmath: bool | set[str]) -> Callable:
    """Decorator for a long part of a kernel that is called in one place.

    It is inlined before types are inferred, so that it is not compiled by itself: a
    cold start is shorter by 15 %.
    """
    return numba.njit(inline="always", **_options(fastmath=fastmath))


def compilers(
    *, fastmath: bool | set[str], make_arrays: bool = True
) -> tuple[Callable, Callable]:
    """Decorators (kernel, part) for kernels and for their parts.

    Kernels release the GIL and are cached on disk.

    Parameters
    ----------
    fastmath : bool or set of str
        As for :func:`numba.njit`.
    make_arrays : bool
        Whether parts may make arrays. Those that may not do without the counting of
        references to arrays: the counts are atomic, which takes up to a fifth of the
        time where rows are short.
    """
    options = _options(fastmath=fastmath)
    # No C code calls a part: without that wrapper it is compiled in less time.
    counting = {} if make_arrays else _no_references()
    part = numba.njit(forceinline=True, no_cfunc_wrapper=True, **counting, **options)

    def kernel(function: Callable) -> Callable:
        compiled = numba.njit(**options)(function)
        if numba.config.DISABLE_JIT:
            _note("NUMBA_DISABLE_JIT: kernels run as Python, thousands of times slower")
            return compiled
        try:
            cache = _KernelCache(compiled.py_func)
        except RuntimeError:  # there is no writable folder
            _use_temporary_folder()
            cache = _KernelCache(compiled.py_func)
        compiled._cache = cache  # noqa: SLF001
        return compiled

    return kernel, part


class _KernelCache(FunctionCache):
    """Numba's cache of one function, with two defects mended.

    A kernel is compiled again if any part of it has changed, in whichever file; and if
    a file of the cache cannot be read, where Numba raises an error.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            found = super().load_overload(sig, target_context)
        except Exception:  # noqa: BLE001 - unpickling damaged files raises anything
            _logger.info("%s cannot be read: it is compiled again", self.cache_path)
            self._guarded(self.flush)
            found = None
        if found is None:  # now the compiler starts
            _notify(self._py_func.__name__)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        self._guarded(super().save_overload, sig, data)
        _notify(None)

    def _index_key(self, sig: Any, codegen: Any) -> tuple:
        return (*super()._index_key(sig, codegen), _sources())

    @staticmethod
    def _guarded(function: Callable, *arguments: Any) -> None:
        try:
            function(*arguments)
        except OSError as error:  # the disk is full, or has become read-only
            _logger.info("a compiled kernel cannot be kept: %s", error)


@cache
def _sources() -> str:
    """Hash of the source files of the core, any of which may hold a part."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


@cache  # once
def _use_temporary_folder() -> None:
    """Let Numba keep kernels in a temporary folder, removed when this process ends.

    All of Numba, and the processes that are started: HyperSpy's own kernels need a
    folder, without one its modules cannot be imported.
    """
    folder = tempfile.mkdtemp(prefix="hyperspy_fusion-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = folder
    _note(
        "there is no writable folder in which compiled kernels can be kept: they are "
        "compiled again each time Python is started, which takes about a minute. Set "
        "the environment variable NUMBA_CACHE_DIR to a writable folder"
    )


@cache  # once
def _note(message: str) -> None:
    _logger.warning(message)
