"""The progress bar, in HyperSpy's style: the callback of the core."""

import time
from collections.abc import Sequence
from math import isfinite, log
from typing import Any

import hyperspy.api as hs
from hyperspy.external.progressbar import progressbar

from .core.common.compilation import compiling_seen_by
from .execution.plan import Task

_DELAY = 1  # seconds
_COMPILING = "Compiling, once"


class Progress:
    """Progress bar of fusions that take more than a second; the callback of the core.

    For a single image it shows the stage and how near to its end the solution is, for a
    series the number of finished images. While kernels are compiled it says so.

    Parameters
    ----------
    show : bool or None
        None takes HyperSpy's preference, ``hs.preferences.General.show_progressbar``.
    n_images : int
        Fields of view to fuse.
    n_iter : int
        Largest number of iterations of each.
    tolerance : float, optional
        Gap at which the solution ends. Without one the values are costs, and all
        iterations are expected to be run.
    name : str
        Name of a field of view.
    """

    def __init__(
        self,
        show: bool | None,  # noqa: FBT001
        n_images: int,
        n_iter: int,
        tolerance: float | None = None,
        name: str = "Image",
    ) -> None:
        if show is None:
            show = hs.preferences.General.show_progressbar
        self.n_images, self.n_iter, self.tolerance = n_images, n_iter, tolerance
        self.name, self.done = name, 0
        self.stage, self.text = "", ""
        self.since = time.monotonic()
        # a bar takes a lock that forked processes share: none if nobody sees it
        self.bar: Any = None
        if show:
            # `miniters`: also what does not lengthen the bar, a new stage, is shown
            self.bar = progressbar(total=n_images, delay=_DELAY, miniters=0)

    @classmethod
    def of(
        cls, tasks: Sequence[Task], options: Any, *, show: bool | None
    ) -> "Progress":
        """The bar of a list of tasks, with the options of their method."""
        n_iter = getattr(options, "max_iter", None) or options.n_iter
        name = "Image" if tasks[0].tile is None else "Tile"
        return cls(show, len(tasks), n_iter, options.tolerance, name)

    def __enter__(self) -> "Progress":  # noqa: PYI034 - Self came with Python 3.11
        self._watching = compiling_seen_by(self.compiling)
        self._watching.__enter__()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._watching.__exit__(None, None, None)
        if self.bar is None:
            return
        if error is None:
            self._show(self.n_images)
        self.bar.close()

    def __call__(self, stage: str, n_iter: int, value: float) -> None:
        """Show the state of the iterations.

        `n_iter` and `value` belong to the stage "solution": iterations so far, and the
        relative gap (not finite before it is known) or the cost.
        """
        if self.bar is None:
            return
        if stage != self.stage:
            self.stage = stage
            if self.n_images == 1:
                self.since = time.monotonic()
        self.text, part = stage.capitalize(), 0.0
        if stage == "solution":
            self.text += f" {n_iter}/{self.n_iter}"
            if self.tolerance is None:
                self.text += f", cost {value:.4g}"
                part = n_iter / self.n_iter
            elif isfinite(value):
                self.text += f", gap {value:.1e} (to {self.tolerance:.0e})"
                part = n_iter / self.n_iter
                if self.tolerance < value < 1:  # it falls about geometrically
                    part = max(part, log(value) / log(self.tolerance))
        # A series takes its time left from whole images: they have all stages.
        self._show(part if self.n_images == 1 else self.done)

    def compiling(self, kernel: str | None) -> None:
        """Say that a kernel is compiled, which nothing else tells; None: it is done."""
        if self.bar is None:
            return
        if kernel is None:
            self._show(self.bar.n)
            return
        # at once: the compiler lets nobody else draw for many seconds
        self.bar.delay = 0
        self.bar.bar_format = f"{_COMPILING}: {{bar}} [{{elapsed}}]"
        self.bar.refresh()

    def next_image(self) -> None:
        """Count a finished field of view."""
        self.done += 1
        if self.n_images > 1 and self.bar is not None:
            self._show(self.done)

    def _show(self, n: float) -> None:
        self.bar.n = max(n, self.bar.n)
        left = "?"
        if self.bar.n > 0:
            spent = time.monotonic() - self.since
            left = spent * (self.n_images / self.bar.n - 1)
            left = self.bar.format_interval(left)
        text = self.text
        if self.n_images > 1:
            current = min(self.done + 1, self.n_images)
            stage = f", {text[:1].lower()}{text[1:]}" if text else ""
            text = f"{self.name} {current}/{self.n_images}{stage}"
        # not tqdm's own time left, which would count the stages before
        self.bar.bar_format = (
            f"{text}: {{percentage:3.0f}}%|{{bar}}| [{{elapsed}}<{left}]"
        )
        self.bar.update(0)
