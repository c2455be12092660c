"""
Fuse by tiles
=============

Large images are solved by tiles. Here a small one is, too, and compared with the
solution as a whole: the edges of the tiles are invisible.
"""

import matplotlib.pyplot as plt
import numpy as np

import hyperspy_fusion

# %%
# An image of 512 x 512 pixels as a whole, then by four tiles of 256 x 256. Each is
# solved with 64 more pixels on all sides, which are discarded. Weights are given;
# noise, coefficients and flux multipliers are those of the whole image.
maps, haadf, truth = hyperspy_fusion.data.core_shell(size=512)
whole, tiled = (
    hyperspy_fusion.fuse_multimodal(
        maps,
        haadf,
        lambda_tv=4,
        lambda_haadf=0.1,
        background=0.02,
        tolerance=1e-4,
        tile_size=tile_size,
        show_progressbar=False,
    )
    for tile_size in (None, 256)
)


# %%
# The manganese map, and the difference by tiles minus as a whole, in percent of the
# 99th percentile of the map. Dotted lines are the edges of the tiles.
def difference(element):
    """In percent of the 99th percentile."""
    high = np.percentile(whole[element].data, 99)
    return 100 * (tiled[element].data - whole[element].data) / high


x, y = tiled[1].axes_manager.signal_axes
extent = (0, x.size * x.scale, y.size * y.scale, 0)
figure, panels = plt.subplots(
    1, 2, figsize=(11, 4.6), sharey=True, layout="constrained"
)
image = panels[0].imshow(tiled[1].data, cmap="inferno", extent=extent)
figure.colorbar(image, ax=panels[0], label="Mn (counts)", shrink=0.8)
panels[0].set(title="by tiles", ylabel=f"{y.name} ({y.units})")
image = panels[1].imshow(difference(1), cmap="RdBu", vmin=-0.5, vmax=0.5, extent=extent)
figure.colorbar(image, ax=panels[1], label="difference (%)", shrink=0.8)
panels[1].set_title("by tiles − as a whole")
panels[1].axhline(256 * y.scale, color="0.5", linestyle=":", linewidth=0.8)
panels[1].axvline(256 * x.scale, color="0.5", linestyle=":", linewidth=0.8)
for panel in panels:
    panel.set_xlabel(f"{x.name} ({x.units})")

# %%
# In numbers, element by element: the largest difference, and the sum of each map, which
# is kept.
for i, true in enumerate(truth):
    print(
        f"{true.metadata.General.title:2}  largest difference "
        f"{np.abs(difference(i)).max():.2f} %; counts "
        f"{whole[i].data.sum(dtype=float):.1f} as a whole, "
        f"{tiled[i].data.sum(dtype=float):.1f} by tiles"
    )
