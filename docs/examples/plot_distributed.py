"""
Fuse on a cluster
=================

Under a client of ``dask.distributed`` the same call is run by the workers of its
cluster. Here the cluster is this computer; for another one only its first line changes.
"""

import hyperspy.api as hs
import numpy as np
from dask.distributed import Client, LocalCluster

import hyperspy_fusion

# %%
# Four images of one specimen; each becomes a task. The workers of this example
# are threads; in a script leave ``processes`` out, and put everything after the
# definitions under ``if __name__ == "__main__":``.
specimens = [hyperspy_fusion.data.janus(size=96, seed=seed) for seed in range(4)]
maps = [
    hs.stack([s.maps[i] for s in specimens], show_progressbar=False) for i in range(3)
]
haadf = hs.stack([s.haadf for s in specimens], show_progressbar=False)
options = {
    "lambda_tv": 4,
    "lambda_haadf": 0.1,
    "background": 0.02,
    "show_progressbar": False,
}

with (
    LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster,
    Client(cluster) as client,
):
    fused = hyperspy_fusion.fuse_multimodal(maps, haadf, **options)
    print(f"{len(cluster.workers)} workers, {len(fused)} maps of {fused[0]}")

# %%
# Without a cluster the maps are the same.
here = hyperspy_fusion.fuse_multimodal(maps, haadf, **options)
difference = max(
    np.abs(a.data - b.data).max() for a, b in zip(fused, here, strict=True)
)
print(f"largest difference {difference} counts")

# %%
# Gold in the four images, which are 128 nm wide, in counts: as measured and as fused.
hs.plot.plot_images(
    [maps[0], fused[0]],
    label=[f"{what} {k}" for what in ("measured", "fused") for k in range(4)],
    per_row=4,
    cmap="inferno",
    vmin=0,
    vmax=float(np.percentile(fused[0].data, 99.9)),
    colorbar="single",
    axes_decor="off",
)
