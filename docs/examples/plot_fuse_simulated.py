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
# The maps have about four X-ray counts in the brightest pixels, in the mean over the
# elements, and the HAADF image 2000 electrons.
# The background, 0.02 counts in each pixel, is known; there is nothing else to set.
maps, haadf, truth = hyperspy_fusion.data.core_shell(counts=4)
fused = hyperspy_fusion.fuse_multimodal(maps, haadf, background=0.02)
hyperspy_fusion.plot_fusion(maps, fused, haadf)

# %%
# All elements in one picture: the hue tells the composition, the HAADF image the
# brightness. Cobalt and oxygen, blue and red, make the cores violet; manganese and
# oxygen, yellow and red, make the shells amber.
hyperspy_fusion.plot_composite(fused, haadf)

# %%
# The weights were chosen by cross-validation: half of the counts was fused, and the
# result compared with the other half. The line above the others is that of the
# counts alone: the HAADF image helps.
hyperspy_fusion.plot_weights(fused)

# %%
# The record of each map says how it was made, and that the iteration converged.
hyperspy_fusion.plot_convergence(fused)
record = fused[0].metadata.Multimodal_fusion
print(record.status, f"at most {record.gap:.2%} above the minimum")

# %%
# Here the truth is known: measured, fused and true maps of cobalt and manganese, all on
# the scale of the truth.
hs.plot.plot_images(
    [maps[0], fused[0], truth[0], maps[1], fused[1], truth[1]],
    label=["Co", "Co fused", "Co truth", "Mn", "Mn fused", "Mn truth"],
    per_row=3,
    axes_decor="off",
    colorbar=None,
    cmap="inferno",
    vmin=0,
    vmax=[truth[i].data.max() for i in (0, 0, 0, 1, 1, 1)],
)

# %%
# The noise is gone, the cores are full and the shells are hollow as they should be. In
# numbers: the root mean square error relative to the truth, and the sum of each map,
# which is that of the measured one without its background.
for measured, clean, true in zip(maps, fused, truth, strict=True):
    before, after = (
        np.linalg.norm(image.data - true.data) / np.linalg.norm(true.data)
        for image in (measured, clean)
    )
    sums = [signal.data.sum() for signal in (measured - 0.02, clean, true)]
    print(
        f"{true.metadata.General.title:2}  error {before:.2f} -> {after:.2f}  counts "
        "{:.0f} measured, {:.0f} fused, {:.0f} true".format(*sums)
    )
