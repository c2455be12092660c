"""The command line: ``hyperspy-fusion demo``, ``fuse`` and ``info``."""

import sys
from collections.abc import Sequence

from . import interrupts

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, as :func:`hyperspy_fusion.cli.program.main` says.

    Returns
    -------
    int
        What that function returns, or 2 if HyperSpy cannot be imported since it has
        no folder for its settings.
    """
    with interrupts.listening():
        try:
            with interrupts.released():
                return _run(argv)
        except KeyboardInterrupt as interrupt:
            return interrupts.tell(interrupt, "nothing was written")


def _run(argv: Sequence[str] | None) -> int:
    try:
        from .program import main as run  # noqa: PLC0415 - HyperSpy writes when imported
    except Exception as error:
        interrupts.check()
        if not isinstance(error, OSError) or error.filename is None:  # not about a file
            raise
        print(
            f"hyperspy-fusion: error: HyperSpy cannot be imported: {error}. It keeps "
            "its settings in the home folder, which has to be writable: set the "
            "environment variable HOME (on Windows USERPROFILE) to another folder",
            file=sys.stderr,
        )
        return 2
    return run(argv)
