"""Frames of an acquisition: which ones are kept, and how they are combined."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from hyperspy.signals import BaseSignal

from ..inputs.images import axes_of, describe, series_shape, with_data
from .candidates import Candidates, Source, as_list, read

# Options that make RosettaSciIO read single frames, by the suffix of the file. For
# other formats it has no such options, or reads no images of the frames.
_FRAME_OPTIONS = {".emd": {"load_SI_image_stack": True, "sum_frames": False}}
_N_FRAMES = "Acquisition_instrument.TEM.Detector.EDS.number_of_frames"


def as_index(
    frames: slice | Sequence[int] | Sequence[bool] | np.ndarray,
) -> slice | np.ndarray:
    """Check the type of `frames`; return an index for an array of frame numbers."""
    if isinstance(frames, slice):
        limits = frames.start, frames.stop, frames.step
        if all(n is None or isinstance(n, Integral) for n in limits):
            return frames
    else:
        with suppress(ValueError):  # a list of unequal lists is no array
            index = np.asarray(frames)
            if index.ndim == 1 and (index.dtype.kind in "biu" or not index.size):
                return index if index.dtype.kind == "b" else index.astype(int)
    raise TypeError(
        f"frames is {frames!r}: expected a slice, a list of frame numbers such as "
        "[0, 1, 4], or a list of booleans, one for each frame"
    )


def read_frames(source: Source, **kwargs: object) -> list[BaseSignal]:
    """List the signals of a source; the single frames of its files, on disk."""
    signals: list[BaseSignal] = []
    for entry in as_list(source):
        if isinstance(entry, str | Path):
            options = _FRAME_OPTIONS.get(Path(entry).suffix.lower(), {})
            signals += read(entry, lazy=True, **{**options, **kwargs})
        else:
            signals.append(entry)
    return signals


def _n_frames(signal: BaseSignal) -> int | None:
    """Number of frames of a stack; None unless the series has exactly one axis."""
    shape = series_shape(signal)
    return shape[0] if len(shape) == 1 else None


def kept_frames(
    candidates: Candidates, index: slice | np.ndarray
) -> tuple[int, np.ndarray]:
    """Return the number of frames, and the numbers of the kept ones, rising.

    `index` is what :func:`as_index` returns. A ValueError if there are no stacks, if
    they differ in size, if there are no such frames, or if no frame is kept.
    """
    stacks = [*candidates.maps, *candidates.spectrum_images]
    numbers = {n for signal in stacks if (n := _n_frames(signal)) is not None}
    if not numbers:
        raise ValueError(
            "frames is given, but neither spectra nor maps have frames: expected EDS "
            "spectra of a Velox file, or signals with one navigation axis besides "
            "those of the image. Leave frames out or, for other formats, let hs.load "
            "read the frames (of JEOL files with sum_frames=False)"
        )
    if len(numbers) > 1:
        raise ValueError(
            f"frames is given, but there are stacks of {sorted(numbers)} frames: "
            "expected the same number of frames in all stacks, give a list of the "
            "signals to use"
        )
    (n,) = numbers
    wrong = _outside(index, n)
    if wrong:
        raise ValueError(
            f"frames has {wrong}, but the stack has {n} frames: expected numbers "
            f"from 0 to {n - 1} ({-n} to -1 count from the end), or {n} booleans"
        )
    kept = np.unique(np.arange(n)[index])
    if not kept.size:
        raise ValueError(
            f"frames keeps none of the frames 0 to {n - 1}: expected at least one"
        )
    return n, kept


def _outside(index: slice | np.ndarray, n: int) -> str:
    """Describe what of an index lies outside a stack of n frames; empty if nothing."""
    if isinstance(index, slice):
        return ""
    if index.dtype.kind == "b":
        return "" if index.size == n else f"{index.size} booleans"
    return ", ".join(map(str, index[(index < -n) | (index >= n)].tolist()))


def _combine(
    stack: BaseSignal, kept: np.ndarray, combine: Callable[[Any], Any]
) -> BaseSignal:
    """Combine frames of a stack; the noise properties, those of a frame, are dropped.

    The axis of the frames is the only one besides those of image and spectrum, so it
    is the first of the array.
    """
    return with_data(stack, combine(stack.data[kept]), axes_of(stack)[1:])


def _sum_stack(stack: BaseSignal, kept: np.ndarray) -> BaseSignal:
    """Sum frames of a stack."""
    total = _combine(stack, kept, partial(np.sum, axis=0))
    if total.metadata.has_item(_N_FRAMES):
        total.metadata.set_item(_N_FRAMES, len(kept))
    return total


def sum_frames(candidates: Candidates, kept: np.ndarray) -> Candidates:
    """Sum frames of the spectra and maps that have them, and leave out the others."""

    def summed(signals: Iterable[BaseSignal]) -> tuple[BaseSignal, ...]:
        return tuple(_sum_stack(s, kept) for s in signals if _n_frames(s))

    return replace(
        candidates,
        maps=summed(candidates.maps),
        spectrum_images=summed(candidates.spectrum_images),
    )


def average_frames(
    image: BaseSignal, n_frames: int, kept: np.ndarray, *, named: bool
) -> BaseSignal:
    """Average the kept frames of a HAADF stack, in the units of one frame.

    A single image is accepted if the user has named it, or if there is a single frame.
    """
    if _n_frames(image) == n_frames:
        return _combine(image, kept, partial(np.mean, axis=0, dtype=float))
    if not series_shape(image) and (named or n_frames == 1):
        return image
    raise ValueError(
        f"the spectra or maps have {n_frames} frames, and the HAADF image is "
        f"{describe(image)}: expected an image of each frame, or a single image that "
        "belongs to the kept frames, named with haadf="
    )
