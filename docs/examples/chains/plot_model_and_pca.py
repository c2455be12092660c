"""
EDS model fit, PCA, fusion
==========================

Instead of counts in windows, a fusion can take the intensities of a model that is
fitted to the spectra. It can also take maps of spectra that were denoised by principal
components, but it should not: here it is measured why.
"""

import warnings

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np

import hyperspy_fusion

# %%
# Spectra of particles of gold on iron oxide are simulated, as in
# :doc:`plot_quantification`.
specimen = hyperspy_fusion.data.janus(size=64, counts=20)
elements, lines = ["Au", "Fe", "O"], ["Au_La", "Fe_Ka", "O_Ka"]
spectra = hyperspy_fusion.data.xray_spectra(specimen.truth, lines)
windows = hyperspy_fusion.load_multimodal(
    [spectra, specimen.haadf], lines=lines, background_windows="auto"
)
haadf = windows.haadf

# %%
# Intensities of a model
# ----------------------
#
# The lines of each element and a polynomial background are fitted to all spectra at
# once, by linear least squares. The areas of the lines are no counts, but values with
# noise on both sides of 0, and the fusion takes them so. A model is worth its time
# where lines overlap; where they do not, as here, counts in windows serve as well.
spectra.set_elements(elements)
spectra.set_lines(lines)
model = spectra.create_model()
model.multifit(optimizer="lstsq")
modelled = model.get_lines_intensity(lines)
fused_model = hyperspy_fusion.fuse_multimodal(modelled, haadf)
hyperspy_fusion.plot_fusion(modelled, fused_model, haadf)
print(hyperspy_fusion.summarize(fused_model))

# %%
# Principal components
# --------------------
#
# Three components describe these spectra: gold, iron oxide and background. The rest of
# the decomposition is noise and is left out.
denoised = spectra.deepcopy()
denoised.change_dtype("float64")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    denoised.decomposition(normalize_poissonian_noise=True, print_info=False)
    components = denoised.get_decomposition_model(3)
pca = hyperspy_fusion.load_multimodal(
    [components, specimen.haadf], lines=lines, background_windows="auto"
)

# %%
# All of them fused, and compared with the truth.
net = {
    "windows": [m - b for m, b in zip(windows.maps, windows.background, strict=True)],
    "model": modelled,
    "PCA": [m - b for m, b in zip(pca.maps, pca.background, strict=True)],
}
fused = {
    "windows": hyperspy_fusion.fuse_multimodal(windows.maps, haadf, windows.background),
    "model": fused_model,
}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    fused["PCA"] = hyperspy_fusion.fuse_multimodal(pca.maps, haadf, pca.background)


def errors(images):
    """Relative error of each map, root mean square."""
    return [
        np.linalg.norm(np.squeeze(image.data) - true.data) / np.linalg.norm(true.data)
        for image, true in zip(images, specimen.truth, strict=True)
    ]


print("relative error", *(f"{element:>6}" for element in elements))
for name in net:
    for how, images in {"before": net, "fused": fused}.items():
        shown = (f"{x:6.3f}" for x in errors(images[name]))
        print(f"{name:7} {how:6}", *shown)

# %%
# By themselves, maps after PCA are nearer to the truth than counts in windows. Fused,
# they are hardly nearer for iron and oxygen, and the error of gold, the rarest element,
# is nearly twice as large. Few components share the noise among all pixels and mix gold
# with its surroundings, which is no noise that a fusion could know of. What it notices:
print(*(warning.message for warning in said), sep="\n")

# %%
# Gold, on one scale.
hs.plot.plot_images(
    [net["windows"][0], fused["windows"][0], net["PCA"][0], fused["PCA"][0]],
    label=["windows", "fused", "PCA", "fused after PCA"],
    per_row=4,
    vmin=0,
    vmax=float(specimen.truth[0].data.max()),
    cmap="inferno",
    colorbar="single",
    axes_decor="off",
    scalebar=[0],
    fig=plt.figure(figsize=(11, 3)),
)
