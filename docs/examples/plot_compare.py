"""
How it compares
===============

The same counts, as measured, filtered as Velox does, smoothed by a Gaussian, denoised
by principal components, fused by the published method and by the default, against the
truth.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter

import hyperspy_fusion

# %%
# Spectra of particles of gold on iron oxide are simulated, as in
# :doc:`/auto_examples/chains/plot_quantification`.
specimen = hyperspy_fusion.data.janus(size=64)
lines = ["Au_La", "Fe_Ka", "O_Ka"]
spectra = hyperspy_fusion.data.xray_spectra(specimen.truth, lines)
maps, haadf, background = hyperspy_fusion.load_multimodal(
    [spectra, specimen.haadf], lines=lines, background_windows="auto"
)
net = [signal - below for signal, below in zip(maps, background, strict=True)]


def as_arrays(signals):
    """Maps as one array."""
    return np.stack([np.squeeze(signal.data) for signal in signals]).astype(float)


truth, measured = as_arrays(specimen.truth), as_arrays(net)


def errors(found):
    """Relative error of each map, root mean square."""
    return np.linalg.norm(found - truth, axis=(1, 2)) / np.linalg.norm(
        truth, axis=(1, 2)
    )


# %%
# Filters of Velox: means of 3 x 3 or 5 x 5 pixels. The Gaussian has the width that
# comes nearest to the truth, and is known only with it.
found = {"measured": measured}
for size in (3, 5):
    found[f"mean {size} x {size}"] = uniform_filter(measured, (0, size, size))
smooth = [gaussian_filter(measured, (0, s, s)) for s in (1, 1.4, 2, 2.8)]
found["best Gaussian"] = min(smooth, key=lambda images: errors(images).mean())

# %%
# Three principal components of the spectra, of all pixels: by default eXSpy leaves
# those with few counts out. With so few, no component is that of gold.
components = spectra.deepcopy()
components.change_dtype("float64")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    components.decomposition(navigation_mask=None, print_info=False)
    pca = hyperspy_fusion.load_multimodal(
        [components.get_decomposition_model(3), specimen.haadf],
        lines=lines,
        background_windows="auto",
    )
found["PCA"] = as_arrays(pca.maps) - as_arrays(pca.background)

# %%
# The published method with its defaults, on positive maps. Its amounts are free, so
# that it is also shown with the factor and offset of each map that come nearest to the
# truth.
positive = [signal.deepcopy() for signal in net]
for signal in positive:
    signal.data = np.maximum(signal.data, 0)
published = as_arrays(hyperspy_fusion.fuse_published(positive, haadf))
found["published"] = published
found["published, best scale"] = np.stack(
    [
        np.polyval(np.polyfit(image.ravel(), true.ravel(), 1), image)
        for image, true in zip(published, truth, strict=True)
    ]
)
found["default"] = as_arrays(hyperspy_fusion.fuse_multimodal(maps, haadf, background))

# %%
# Errors relative to the truth, and the sum of each map relative to what was measured.
print(f"{'error':22}    Au    Fe     O     sums")
for name, images in found.items():
    sums = images.sum(axis=(1, 2)) / measured.sum(axis=(1, 2))
    row = "".join(f"{x:6.2f}" for x in errors(images))
    print(f"{name:22}{row}    ", *(f"{x:.2f}" for x in sums))

# %%
# Iron, on one scale.
figure, panels = plt.subplots(3, 3, figsize=(8, 8.4), layout="constrained")
for panel, (name, images) in zip(
    panels.flat, {**found, "truth": truth}.items(), strict=True
):
    panel.imshow(images[1], cmap="inferno", vmin=0, vmax=truth[1].max())
    panel.set(title=name, xticks=[], yticks=[])
