"""
Phases and their spectra
========================

Fused maps are clean enough to tell phases apart pixel by pixel. Their masks, applied to
the spectrum image, give the spectrum of each phase, with all counts that belong to it.
"""

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
from scipy.cluster.vq import kmeans2

import hyperspy_fusion

# %%
# Spectra of particles of gold on iron oxide are simulated, as in
# :doc:`plot_quantification`, and fused.
specimen = hyperspy_fusion.data.janus(size=64)
elements, lines = ["Au", "Fe", "O"], ["Au_La", "Fe_Ka", "O_Ka"]
spectra = hyperspy_fusion.data.xray_spectra(specimen.truth, lines)
maps, haadf, background = hyperspy_fusion.load_multimodal(
    [spectra, specimen.haadf], lines=lines, background_windows="auto"
)
fused = hyperspy_fusion.fuse_multimodal(maps, haadf, background)

# %%
# Decomposition
# -------------
#
# A stack of the fused maps, turned so that each pixel holds a "spectrum" of three
# elements, is decomposed as any spectrum image. Two components explain it all: iron and
# oxygen are proportional here, gold goes its own way.
stack = hs.stack(fused).T
stack.decomposition(print_info=False)
print(stack.learning_results.explained_variance_ratio.round(4))
loadings = stack.get_decomposition_loadings()
hs.plot.plot_images(
    loadings.inav[:2],
    label=["component 0", "component 1"],
    cmap="viridis",
    axes_decor="off",
    colorbar="multi",
    scalebar=[0],
)

# %%
# Clusters
# --------
#
# The pixels where there is matter are sorted by their shares of the counts: two
# clusters, and the rest is vacuum.
counts = np.stack([image.data for image in fused])
matter = counts.sum(axis=0) > 1
shares = (counts / np.maximum(counts.sum(axis=0), 1e-9))[:, matter].T
centres, labels = kmeans2(shares.astype(float), 2, seed=0, minit="++")
oxide, gold = np.argsort(centres[:, 0])
phase = np.zeros(matter.shape, dtype=int)
phase[matter] = np.where(labels == gold, 2, 1)

true = np.stack([image.data for image in specimen.truth])
truly = np.where(true.sum(axis=0) > 1, 1 + (true[0] > 0.5 * true.sum(axis=0)), 0)
print(f"{np.mean(phase == truly):.1%} of the pixels are as in the truth")
figure, panels = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for panel, image, title in zip(
    panels, (phase, truly), ("phases from fused maps", "truth"), strict=True
):
    panel.imshow(image, cmap="cividis")
    panel.set(title=title, xticks=[], yticks=[])
    panel.set_xlabel("blue: vacuum, grey: oxide, yellow: gold")

# %%
# The spectrum of each phase
# --------------------------
#
# The counts of all pixels of a phase are summed, so that lines are seen which no single
# pixel shows: the gold that lies on the oxide is counted there, too.
figure, panels = plt.subplots(
    2, 1, figsize=(8, 5), sharex=True, sharey=True, layout="constrained"
)
energy = spectra.axes_manager.signal_axes[0].axis
for panel, number, name in zip(panels, (1, 2), ("iron oxide", "gold"), strict=True):
    mask = phase == number
    spectrum = spectra.data[mask].sum(axis=0)
    panel.plot(energy, spectrum + 1, drawstyle="steps-mid")
    panel.set(title=name, ylabel="counts + 1", yscale="log", xlim=(0, 14))
    print(f"{name}: {mask.sum()} pixels, {spectrum.sum()} counts")
panels[1].set_xlabel("energy (keV)")
