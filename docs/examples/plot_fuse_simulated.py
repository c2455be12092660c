"""
Fuse a simulated specimen
=========================

Particles with a cobalt core in a manganese shell: maps of few counts and a HAADF image
are fused, and the result is compared with the truth.
"""

import hyperspy.api as hs
import numpy as np

import hyperspy_fusion

# %%
# The maps have up to about four X-ray counts per pixel, the HAADF image 2000 electrons.
maps, haadf, truth = hyperspy_fusion.data.core_shell(counts=4)

# %%
# The weights are those that the literature uses for such particles.
fused = hyperspy_fusion.fuse_multimodal(
    maps,
    haadf,
    lambda_chem=0.006,
    lambda_tv=0.022,
    background=0.01,
    n_iter_tv=6,
    initial_threshold=0.2,
)
hyperspy_fusion.plot_fusion(maps, fused, haadf)

# %%
# The record of each map says how the iteration went.
hyperspy_fusion.plot_convergence(fused)
print(fused[0].metadata.Multimodal_fusion.status)

# %%
# Here the truth is known: measured, fused and true maps of cobalt and manganese. The
# noise is gone and the particles are where they should be. With these weights the HAADF
# image counts for more than the few X-rays, so some manganese appears over the cores.
hs.plot.plot_images(
    [maps[0], fused[0], truth[0], maps[1], fused[1], truth[1]],
    label=["Co", "Co fused", "Co truth", "Mn", "Mn fused", "Mn truth"],
    per_row=3,
    axes_decor="off",
    colorbar=None,
    cmap="inferno",
)


# %%
# The published method scales each map by its own range, so its maps show where an
# element is rather than how much of it there is: they are compared with the truth after
# the best straight-line fit.
def error(image, true):
    """Root mean square distance from the truth, as a part of the truth."""
    line = np.polynomial.Polynomial.fit(image.data.ravel(), true.data.ravel(), 1)
    return np.linalg.norm(line(image.data) - true.data) / np.linalg.norm(true.data)


for measured, clean, true in zip(maps, fused, truth, strict=True):
    element = true.metadata.Sample.elements[0]
    print(f"{element:2}  {error(measured, true):.2f} -> {error(clean, true):.2f}")
