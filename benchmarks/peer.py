"""multimodal-fusion 0.6.0 as `speed.py` times it, in an environment of its own.

Reads lines ``path seconds n_iter n_iter_tv``, is busy for so many seconds, and answers
each with those from the arrays of the file to those of the result.
"""

import contextlib
import os
import sys
import time

os.environ["TQDM_DISABLE"] = "1"

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from multimodal_fusion import DataFusion, fusion

# With its costs, as ours are; the figure it would draw of them is not counted.
fusion.utils.plot_convergence = lambda *_: None


def fuse(maps, haadf, n_iter, n_iter_tv):
    """Load and run with the weights that are the defaults of our published method."""
    peer = DataFusion(list(maps))
    peer.load_chemical_maps(maps)
    peer.load_haadf(haadf)
    peer.run(
        nIter=n_iter,
        ng=n_iter_tv,
        lambdaEDS=0.08,
        lambdaTV=0.15,
        bkg=0.24,
        plot_images=False,
        plot_convergence=True,
    )
    return peer.get_results()


for line in sys.stdin:
    path, seconds, *counts = line.split()
    with np.load(path) as file:
        maps = {name: file[name].astype(float) for name in file.files}
    haadf = maps.pop("HAADF")
    end = time.perf_counter() + float(seconds)
    while time.perf_counter() < end:  # awake, as `speed.py` is
        pass
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        fuse(maps, haadf, *map(int, counts))
    print(time.perf_counter() - start, flush=True)
