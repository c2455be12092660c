"""Ctrl-C and SIGTERM, which end the work: at once, or after what has to be whole.

An exception that a handler raises can be caught by what is running, and be forgotten or
turned into another error: destructors and validators of other packages do. So it is
kept, and :func:`check` raises it again.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = [
    "arrive",
    "check",
    "held",
    "listening",
    "masked",
    "released",
    "tell",
    "unmask",
]

_SIGNALS = signal.SIGINT, signal.SIGTERM
_INTERRUPTED, _TERMINATED = 130, 143  # exit status


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends all as Ctrl-C does."""


class _State:
    arrived: type[KeyboardInterrupt] | None = None
    held = False


def arrive(number: int = signal.SIGINT, _frame: Any = None) -> None:
    """Handle a signal: raise it, or keep it if it is held."""
    _State.arrived = _Terminated if number == signal.SIGTERM else KeyboardInterrupt
    if not _State.held:
        raise _State.arrived


def check() -> None:
    """Raise the signal that has arrived, if there is one."""
    if _State.arrived:
        raise _State.arrived


def tell(interrupt: KeyboardInterrupt, left: str) -> int:
    """Say what ended the work and what is left of it; return the exit status.

    From here on signals come too late.
    """
    _State.held = True
    ended = isinstance(interrupt, _Terminated)
    how = "terminated" if ended else "interrupted"
    print(f"hyperspy-fusion: {how}, {left}", file=sys.stderr)
    return _TERMINATED if ended else _INTERRUPTED


@contextmanager
def listening() -> Iterator[None]:
    """Hold both signals, but for those that others handle, or ignore as ``nohup`` does.

    Threads other than the main one get no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _quiet_when_interrupted()
    found = {one: signal.getsignal(one) for one in _SIGNALS}
    ours = {one: old for one, old in found.items() if old not in (signal.SIG_IGN, None)}
    _State.arrived, _State.held = None, True
    try:
        for one in ours:
            signal.signal(one, arrive)
        yield
    finally:
        for one, old in ours.items():
            signal.signal(one, old)
        _State.arrived, _State.held = None, False


@contextmanager
def held() -> Iterator[None]:
    """Let signals wait until the end, when the last one is raised."""
    outer, _State.held = _State.held, True
    try:
        yield
    finally:
        _State.held = outer
    if not outer:
        check()


@contextmanager
def released() -> Iterator[None]:
    """Raise signals at once within what holds them, and those that have waited."""
    outer, _State.held = _State.held, False
    try:
        check()
        yield
    finally:
        _State.held = outer


@contextmanager
def masked() -> Iterator[None]:
    """Let new processes begin with Ctrl-C waiting, until they call :func:`unmask`."""
    with held():
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            yield
        finally:
            unmask()


def unmask() -> None:
    """Let Ctrl-C through, also one that has waited."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


@cache  # once
def _quiet_when_interrupted() -> None:
    """Let no destructor print a traceback after a signal, which is raised again."""
    before = sys.unraisablehook

    def hook(found: Any) -> None:
        if _State.arrived is None:
            before(found)

    sys.unraisablehook = hook
