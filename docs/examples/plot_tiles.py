"""
Fuse by tiles
=============

Large images are solved by tiles. Here a small one is, to compare it with the solution
as a whole: the difference shows no seam.
"""

import matplotlib.pyplot as plt
import numpy as np

import hyperspy_fusion

# %%
# An image of 512 x 512 pixels as a whole, then by 16 tiles of 128 x 128. Each tile is
# solved with 32 more pixels on all sides, which are thrown away. Noise, coefficients and
# weights are those of the whole image in both cases.
maps, haadf, truth = hyperspy_fusion.data.core_shell(size=512)
options = {"lambda_tv": 4, "lambda_haadf": 0.1, "background": 0.02}
whole = hyperspy_fusion.fuse_multimodal(maps, haadf, **options)
tiled = hyperspy_fusion.fuse_multimodal(maps, haadf, tile_size=128, **options)

# %%
# The difference in percent of the 99th percentile of the map. Dotted lines are the edges
# of the tiles.
scale = np.percentile(whole[1].data, 99)
difference = 100 * (tiled[1].data - whole[1].data) / scale
x, y = whole[1].axes_manager.signal_axes
extent = (0, x.size * x.scale, y.size * y.scale, 0)

figure, panels = plt.subplots(
    1, 2, figsize=(10, 4.4), sharey=True, layout="constrained"
)
image = panels[0].imshow(tiled[1].data, cmap="inferno", extent=extent)
figure.colorbar(image, ax=panels[0], label="Mn, by tiles (counts)")
limit = np.abs(difference).max()
image = panels[1].imshow(
    difference, cmap="RdBu", vmin=-limit, vmax=limit, extent=extent
)
figure.colorbar(image, ax=panels[1], label="by tiles - as a whole (%)")
for edge in range(128, 512, 128):
    panels[1].axhline(edge * y.scale, color="0.5", linestyle=":", linewidth=0.8)
    panels[1].axvline(edge * x.scale, color="0.5", linestyle=":", linewidth=0.8)
for panel in panels:
    panel.set_xlabel(f"{x.name} ({x.units})")
panels[0].set_ylabel(f"{y.name} ({y.units})")


# %%
# Both are as far from the truth, and keep the sum of each map.
def error(fused, true):
    """Root mean square distance from the truth, as a part of it."""
    return np.linalg.norm(fused.data - true.data) / np.linalg.norm(true.data)


for one, other, true in zip(whole, tiled, truth, strict=True):
    print(
        f"{true.metadata.General.title:2}  error {error(one, true):.4f} as a whole, "
        f"{error(other, true):.4f} by tiles; counts {one.data.sum(dtype=float):.1f} and "
        f"{other.data.sum(dtype=float):.1f}"
    )
