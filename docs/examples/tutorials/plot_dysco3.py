r"""
Tutorial: DyScO₃, X-ray maps at atomic resolution
=================================================

The first data set of the beginner's guide :cite:p:`manassa2024`, fused as published,
then by the default of this package: what the cost terms tell, what the weight of the
total variation does, how to save everything, and how the two results differ.

Data: 256 x 256 pixels, X-ray maps of Sc, Dy and O and the HAADF image, 2 MB, under the
MIT licence. The function below fetches them once from `the repository of the guide
<https://github.com/msa-em/fused-multi-modal-em>`__. Without a network, save the file in
a folder and name it in the environment variable ``HYPERSPY_FUSION_DATA``.
"""

import tempfile
import warnings
from pathlib import Path

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np

import hyperspy_fusion

maps, haadf = hyperspy_fusion.data.dysco3()

# %%
# As published
# ------------
#
# The defaults of ``fuse_published`` are the values of the guide for this data set; they
# are written out here. Every weight belongs to images that are scaled to [0, 1].
published = hyperspy_fusion.fuse_published(
    maps,
    haadf,
    lambda_haadf=1 / 3,  # one over the number of elements
    lambda_chem=0.08,
    lambda_tv=0.15,
    epsilon=0.24,
    gamma=1.6,
    n_iter=30,
    n_iter_tv=3,
)
region = (40, 40, 104, 104)  # pixels: the file tells no pixel size
hyperspy_fusion.plot_fusion(maps, published, haadf, zoom=region)

# %%
# How to read the costs
# ---------------------
#
# The guide looks at three terms. Each is shown without its weight.
hyperspy_fusion.plot_convergence(published)

# %%
# **HAADF** is the misfit of the image. It should fall: the measured maps, from which
# the iteration starts, are noisy, and so is the image that they predict. Here it falls
# by nearly half in a few iterations and then creeps up, because smooth maps predict the
# sharp columns worse.
#
# **Chemical** is the misfit of the measured maps. It may rise: nothing fits them as
# well as they do themselves, so that every smoothing raises it. Here it falls, which is
# *not* a better fit. The constant ε = 0.24 in its logarithm moves its minimum to maps
# that are 0.24 too low, and the maps follow: see their sums below.
#
# **Total variation** counts noise and edges. It should fall at once, then stay.
#
# **Total**, their weighted sum, is what is minimised. It should fall until it is flat;
# where it rises, the steps are too long. The status counts the steps in which a cost
# rose.
print(published[0].metadata.Multimodal_fusion.status)

# %%
# The weight of the total variation
# ---------------------------------
#
# Too little leaves noise, too much melts the columns together. Look for the weight at
# which the noise is gone and the columns still stand apart; mind the colour bars: each
# step of smoothing lowers the columns. Fifteen TV steps are taken here: with the three
# of the guide a weight above 0.05 changes nothing any more, see
# :doc:`/auto_examples/plot_fgp_and_gp`.
weights = {"under": 0.003, "right": 0.03, "over": 0.3}
scandium = [
    hyperspy_fusion.fuse_published(maps, haadf, lambda_tv=weight, n_iter_tv=15)[0]
    for weight in weights.values()
]
view = hs.roi.RectangularROI(*region)
hs.plot.plot_images(
    [view(image) for image in (maps[0], *scandium)],
    label=["Sc measured", *(f"{name}, λ = {w}" for name, w in weights.items())],
    per_row=4,
    cmap="inferno",
    axes_decor="off",
    colorbar="multi",
    padding={"wspace": 0.5},
    fig=plt.figure(figsize=(12, 3)),
)

# %%
# GP and FGP
# ----------
#
# The prox of the total variation is approached by gradient projection (GP) or its fast
# variant with momentum (FGP, the default). With three steps both are far from the
# minimum, and GP is farther: its maps are rougher, with more total variation.
plain = hyperspy_fusion.fuse_published(maps, haadf, tv_algorithm="GP")
for name, fused in {"GP": plain, "FGP": published}.items():
    costs = fused[0].metadata.Multimodal_fusion.cost
    print(f"{name:3}  TV {costs.tv[-1]:.0f}  total {costs.total[-1]:.0f}")

# %%
# The default
# -----------
#
# ``fuse_multimodal`` has no weights to set. It finds that these maps are no counts: in
# every pixel they sum to 1, so they are fractions, and it says what follows from that.
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    default = hyperspy_fusion.fuse_multimodal(maps, haadf)
print(*(warning.message for warning in said), sep="\n")
fractions = hyperspy_fusion.get_fractions(default)

# %%
# Side by side, on the colours of the measured map of each element.
rows = {"measured": maps, "as published": published, "default": fractions}
hs.plot.plot_images(
    [view(image) for images in rows.values() for image in images],
    label=[f"{element}, {name}" for name in rows for element in ("Sc", "Dy", "O")],
    per_row=3,
    cmap="inferno",
    axes_decor="off",
    colorbar=None,
    vmin=0,
    vmax=[float(np.percentile(image.data, 99.5)) for image in maps] * 3,
    fig=plt.figure(figsize=(7, 7.5)),
)

# %%
# Both show the columns. The published maps are crisper: their background is black,
# which the measured maps do not say: ε = 0.24 has taken it away, and with it most of
# the scandium, as the sums tell. They are for shapes, not for amounts. The default
# keeps the composition within a few per cent, and its columns are as soft as X-rays
# show them, since the weights were chosen by how well they predict pixels that were
# hidden.
for name, images in rows.items():
    sums = np.array([np.nansum(image.data, dtype=float) for image in images])
    shares = 100 * sums / sums.sum()
    print(f"{name:12}  " + "Sc {:.1f} %, Dy {:.1f} %, O {:.1f} %".format(*shares))

# %%
# Save everything
# ---------------
#
# ``.tif`` is for other programs and holds the picture only. ``.hspy`` is an HDF5 file
# (``.h5``) that also keeps axes, costs and every parameter.
with tempfile.TemporaryDirectory() as folder:
    for image in published:
        path = Path(folder) / image.metadata.General.title
        image.save(path.with_suffix(".tif"))
        image.save(path.with_suffix(".hspy"))
    print(sorted(path.name for path in Path(folder).iterdir()))
    record = hs.load(Path(folder) / "Sc.hspy").metadata.Multimodal_fusion
for name in ("lambda_haadf", "lambda_chem", "lambda_tv", "epsilon", "gamma", "n_iter"):
    print(f"{name:12}  {record[name]:.3g}")
