"""Each kernel is compiled once: no option and no input makes another type of it."""

import os
import subprocess
import sys

PROGRAM = """
import warnings
warnings.simplefilter("ignore")
import numpy as np
import hyperspy_fusion as hf
from hyperspy_fusion.core.calibrated.convex import (
    bins,
    certificate,
    multigrid,
    spectral,
    sweep,
)
from hyperspy_fusion.core.calibrated import groups
from hyperspy_fusion.core.published import kernels, tv_prox

maps, haadf, _ = hf.data.core_shell(size=40)
GIVEN = {"lambda_tv": 4, "lambda_haadf": 0.1}
noisy = [m + np.random.default_rng(0).normal(size=m.data.shape) for m in maps]
known = [m * 1.0 for m in maps]
for signal in known:
    signal.set_noise_variance(2.0)
mask = haadf.data < np.quantile(haadf.data, 0.1)
flipped = [m.isig[::-1, ::-1] for m in maps]
for arguments, options in (
    ((maps, haadf), {}),
    ((maps, haadf), GIVEN),
    ((maps[:1], haadf), GIVEN),
    ((maps[:1], haadf), GIVEN | {"lock_flux": False}),
    ((maps, haadf, 0.02), GIVEN | {"regularizer": "tv", "tolerance": 1}),
    ((maps, haadf, [m * 0.01 for m in maps]), GIVEN),
    (([m * 0.37 for m in maps], haadf), GIVEN | {"lambda_tv": np.float32(4)}),
    ((noisy, haadf), GIVEN | {"uncertainty": True}),
    ((maps, haadf), GIVEN | {"uncertainty": True, "lambda_haadf": 0}),
    ((known, haadf), GIVEN | {"mask": mask}),
    ((flipped, haadf.isig[::-1, ::-1]), GIVEN),
    ((maps, haadf), GIVEN | {"tile_size": 32}),
    ((maps, haadf), GIVEN | {"share": True}),
    ((maps, haadf), GIVEN | {"elastic": maps[0] * 2.0, "lambda_elastic": 0.1}),
    ((known[:1], haadf), GIVEN | {"share": True, "mask": mask}),
):
    hf.fuse_multimodal(*arguments, **options)
for options in (
    {},
    {"gamma": 2, "lambda_haadf": 1, "n_iter": np.int32(4)},
    {"regularize": False},
    {"tv_algorithm": "GP", "n_iter_tv": 5, "epsilon": 1},
    {"initial_threshold": 0.1, "tolerance": 1e-3},
):
    hf.fuse_published(maps, haadf, **options)
hf.fuse_published(maps[:1], haadf)
truth = hf.data.core_shell(size=40).truth
spectra = hf.data.xray_spectra(truth, ["Co_Ka", "Mn_Ka", "O_Ka"])
for options in (GIVEN, GIVEN | {"regularizer": "tv", "lock_flux": False}):
    hf.fuse_spectra(spectra, haadf, ["Co", "Mn", "O"], **options)
tv_prox.total_variation_prox(haadf.data.T, 1, 3)
tv_prox.total_variation_prox(np.broadcast_to(1, (4, 4)), 1, 3)
for module in (
    bins, certificate, groups, multigrid, spectral, sweep, kernels, tv_prox
):
    for name, kernel in vars(module).items():
        options = getattr(kernel, "targetoptions", {})
        part = options.get("forceinline") or options.get("inline") == "always"
        if hasattr(kernel, "signatures") and not part:
            print(name, len(kernel.signatures))
"""


def test_kernels_are_compiled_for_one_type_each():
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", PROGRAM],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    kernels = "_iterate_one", "_iterate_several", "join", "refine_rows", "sum_rows"
    kernels += "primal_rows", "dual_rows"
    kernels += "iterate_published", "tv_prox_rows", "group_rows", "share_rows"
    kernels += "share_bins", "deviance_rows", "spectral_dual_rows"
    kernels += "patch_rows", "nearest_rows"
    assert found == dict.fromkeys(kernels, "1") | {"join": found["join"]}
    assert found["join"] in "01"  # images as small as these are left to one thread
