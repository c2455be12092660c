"""
An image on a support
=====================

A support that becomes thicker to one side adds to the HAADF image what no map shows.
That contradicts the maps nearly everywhere, and yet the fine detail of the image is
right. Its slowly varying part is found with the counts, and subtracted.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

import hyperspy_fusion

# %%
# Particles of cobalt and manganese oxide are simulated, with the image of a carbon film
# beneath: a wedge, and a drop of glue at its edge.
maps, haadf, truth = hyperspy_fusion.data.core_shell(size=128, counts=4)
y, x = np.mgrid[:128, :128] / 128
film = 0.5 * x + 0.6 * np.exp(-((x - 0.1) ** 2 + (y - 0.9) ** 2) / 0.08)
rng = np.random.default_rng(1)
haadf.data = haadf.data + rng.poisson(film * np.ptp(haadf.data))

# %%
# No option is needed. The warning, which the summary repeats, tells what was done,
# since an element without a map may look the same.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    fused = hyperspy_fusion.fuse_multimodal(maps, haadf, background=0.02)
print(hyperspy_fusion.summarize(fused))

# %%
# The difference of image and model is the film; without it, they agree.
hyperspy_fusion.plot_misfit(maps, fused, haadf, background=0.02)

# %%
# The film is no chemistry: the errors of the maps are nearly those of a clean image,
# and lower than those from the counts alone.
clean = hyperspy_fusion.data.core_shell(size=128, counts=4).haadf
given = {"background": 0.02, "show_progressbar": False}
best = hyperspy_fusion.fuse_multimodal(maps, clean, **given)
alone = hyperspy_fusion.fuse_multimodal(maps, clean, **given, lambda_haadf=0)


def error(found):
    """Relative error, root mean square, mean over the elements."""
    return np.mean(
        [
            np.linalg.norm(one.data - other.data) / np.linalg.norm(other.data)
            for one, other in zip(found, truth, strict=True)
        ]
    )


for name, found in {
    "counts alone": alone,
    "image on the film": fused,
    "image without film": best,
}.items():
    print(f"{name:20s} {error(found):.3f}")

# %%
# The map of manganese, measured, from the counts alone, and fused with the image.
figure, panels = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
shown = {"HAADF": haadf, "Mn": maps[1], "counts alone": alone[1], "fused": fused[1]}
for axes, (title, signal) in zip(panels, shown.items(), strict=True):
    image = np.asarray(signal.data, dtype=float)
    axes.imshow(
        image,
        cmap="gray" if title == "HAADF" else "inferno",
        vmax=np.quantile(image, 0.999),
    )
    axes.set(title=title, xticks=[], yticks=[])
