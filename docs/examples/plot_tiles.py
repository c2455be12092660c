"""
Fuse by tiles
=============

Large images are solved by tiles. Here a small one is, to compare it with the solution
as a whole, and to see what the edges of the tiles leave behind.
"""

import matplotlib.pyplot as plt
import numpy as np

import hyperspy_fusion

# %%
# An image of 512 x 512 pixels as a whole, then by 16 tiles of 128 x 128, once with the
# flux lock and once without it. Each tile is solved with 32 more pixels on all sides,
# which are thrown away. Weights are given, noise and coefficients are those of the
# whole image.
maps, haadf, truth = hyperspy_fusion.data.core_shell(size=512)
options = {
    "lambda_tv": 4,
    "lambda_haadf": 0.1,
    "background": 0.02,
    "show_progressbar": False,
}


def whole_and_tiled(**more):
    """Both solutions."""
    return [
        hyperspy_fusion.fuse_multimodal(maps, haadf, **options, **more, **tiles)
        for tiles in ({}, {"tile_size": 128})
    ]


whole, tiled = whole_and_tiled()
free_whole, free_tiled = whole_and_tiled(lock_flux=False)


# %%
# The manganese map, and the difference by tiles minus as a whole, in percent of the
# 99th percentile of the map. Dotted lines are the edges of the tiles.
def difference(tiled, whole):
    """In percent of the 99th percentile."""
    return 100 * (tiled.data - whole.data) / np.percentile(whole.data, 99)


x, y = tiled[1].axes_manager.signal_axes
extent = (0, x.size * x.scale, y.size * y.scale, 0)
figure, panels = plt.subplots(
    1, 3, figsize=(13, 4.8), sharey=True, layout="constrained"
)
image = panels[0].imshow(tiled[1].data, cmap="inferno", extent=extent)
figure.colorbar(image, ax=panels[0], label="Mn (counts)")
panels[0].set(title="by tiles", ylabel=f"{y.name} ({y.units})")
for panel, one, other, title in (
    (panels[1], tiled, whole, "difference"),
    (panels[2], free_tiled, free_whole, "difference without flux lock"),
):
    image = panel.imshow(
        difference(one[1], other[1]), cmap="RdBu", vmin=-0.5, vmax=0.5, extent=extent
    )
    panel.set_title(title)
    for edge in range(128, 512, 128):
        panel.axhline(edge * y.scale, color="0.5", linestyle=":", linewidth=0.8)
        panel.axvline(edge * x.scale, color="0.5", linestyle=":", linewidth=0.8)
figure.colorbar(image, ax=panels[1:], label="difference (%)")
for panel in panels:
    panel.set_xlabel(f"{x.name} ({x.units})")

# %%
# Without the flux lock no edge is seen: the halo is wide enough. With it, each tile
# keeps a sum that was found on larger pixels, and where a tile holds little of an
# element, a small error of its sum is a large part of it. In numbers, element by
# element: largest differences, and the sum of each map, which is kept.
for i, true in enumerate(truth):
    locked, free = (
        np.abs(difference(one[i], other[i])).max()
        for one, other in ((tiled, whole), (free_tiled, free_whole))
    )
    print(
        f"{true.metadata.General.title:2}  largest difference {locked:.2f} %, without "
        f"flux lock {free:.2f} %; counts {whole[i].data.sum(dtype=float):.1f} as a "
        f"whole, {tiled[i].data.sum(dtype=float):.1f} by tiles"
    )
