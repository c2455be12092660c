"""Compile all kernels before they are needed."""

from dataclasses import replace

import numba
import numpy as np

from .core.calibrated.convex.bins import Bins
from .core.calibrated.given import Chemistry, Pixels
from .core.calibrated.groups import Groups, LocalChemistry, Looks, neighbours
from .core.calibrated.method import solve as solve_calibrated
from .core.calibrated.options import CalibratedOptions
from .core.calibrated.spectra import Spectra
from .core.calibrated.spectra import solve as solve_spectra
from .core.common.compilation import compiling_seen_by
from .core.common.threads import Workers
from .core.published.method import PublishedOptions
from .core.published.method import solve as solve_published

_SIZE = 256  # pixels a side: from here on a second thread works, which joins blocks


def warm_up() -> list[str]:
    """Compile all kernels that are not in the cache on disk yet.

    A small image is fused by each method: kernels have one type each, so that nothing
    is compiled after that, whatever is fused.

    Returns
    -------
    list of str
        Names of the kernels that were compiled; empty if all of them were there.
    """
    compiled: list[str] = []
    if numba.config.DISABLE_JIT:
        return compiled

    def note(kernel: str | None) -> None:
        if kernel is not None:
            compiled.append(kernel)

    rng = np.random.default_rng(0)
    thickness = np.linspace(0, 8, _SIZE) + np.zeros((_SIZE, 1))
    maps = rng.poisson([thickness, thickness[::-1, ::-1]]).astype(np.float64)
    haadf = rng.poisson(100 * thickness).astype(np.float64)
    calibrated = CalibratedOptions(lambda_tv=4.0, lambda_haadf=0.1, max_iter=2)
    published = PublishedOptions(n_iter=1)
    spectra = Spectra(
        bins=Bins(counts=maps.astype(np.float32), mixing=np.eye(2)),
        sums=maps.sum(axis=(1, 2)),
        errors=np.zeros(2),
        names=("Co", "Mn"),
        shares=np.ones(2),
    )
    chemistry = Chemistry(atomic_numbers=(27, 25))
    with compiling_seen_by(note):
        pixels = Pixels(maps=maps, haadf=haadf)
        solve_calibrated(pixels, chemistry, calibrated, num_workers=2)
        solve_published(maps, haadf, chemistry.atomic_numbers, published)
        solve_spectra(haadf, spectra, chemistry.atomic_numbers, calibrated)
        maps, haadf = maps[:, :32, :32], haadf[:32, :32]
        several = replace(calibrated, lambda_elastic=0.1)
        phase = np.sqrt(haadf)[None]
        pixels = Pixels(maps=maps, haadf=haadf, elastic=phase)
        chemistry = replace(chemistry, elastic_names=["phase"])
        solve_calibrated(pixels, chemistry, several)
        run, noise = Workers(), np.ones(len(maps))
        looks = Looks.of(haadf, np.ones_like(haadf), maps, noise, run, 0)
        near = neighbours(looks, 2, run, 0)
        local = LocalChemistry.of(maps, maps, (3.0, 5.0))
        Groups.of(near, local, run).mean(maps, run)
    return compiled
