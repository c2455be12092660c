"""How kernels are compiled and cached.

A kernel is called from Python. Its parts are inlined into it: what the compiler leaves
as a call is rounded differently when it is loaded from Numba's cache.
"""

import hashlib
import logging
from collections.abc import Callable
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


def compilers(*, fastmath: bool | set[str]) -> tuple[Callable, Callable]:
    """Decorators (kernel, part) for kernels and for their parts.

    `fastmath` as for :func:`numba.njit`. Kernels release the GIL and are cached on
    disk.
    """
    # Python's error model would look for zeros in front of each division: a loop that
    # can raise is not vectorised.
    options: dict[str, Any] = {
        "nogil": True,
        "fastmath": fastmath,
        "error_model": "numpy",
    }

    def kernel(function: Callable) -> Callable:
        compiled = numba.njit(**options)(function)
        if numba.config.DISABLE_JIT:
            _note("NUMBA_DISABLE_JIT: kernels run as Python, thousands of times slower")
            return compiled
        try:
            compiled._cache = _KernelCache(compiled.py_func)  # noqa: SLF001
        except RuntimeError:
            _note(
                "there is no writable folder for compiled kernels: each process "
                "compiles them again, which takes about 20 s. Set the environment "
                "variable NUMBA_CACHE_DIR to a writable folder"
            )
        return compiled

    return kernel, numba.njit(forceinline=True, **options)


class _KernelCache(FunctionCache):
    """Numba's cache of one function, with two defects mended.

    A kernel is compiled again if any part of it has changed, in whichever file; and if
    a file of the cache cannot be read, where Numba raises an error.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # noqa: BLE001 - unpickling damaged files raises anything
            _logger.info("%s cannot be read: it is compiled again", self.cache_path)
            self._guarded(self.flush)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        self._guarded(super().save_overload, sig, data)

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
def _note(message: str) -> None:
    _logger.warning(message)
