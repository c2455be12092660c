r"""
Tutorial: Co₃O₄–Mn₃O₄, energy-loss maps of core-shell particles
===============================================================

The second data set of the beginner's guide :cite:p:`manassa2024`. Here the published
method and the default disagree about the HAADF image itself: one follows it come what
may, the other gives it the weight that the counts bear out, and says how little it is.

Data: 400 x 400 pixels, energy-loss maps of Co, Mn and O and the HAADF image, 2.6 MB,
under the MIT licence. The function below fetches them once from `the repository of the
guide <https://github.com/msa-em/fused-multi-modal-em>`__. Without a network, save the
file in a folder and name it in the environment variable ``HYPERSPY_FUSION_DATA``.
"""

import warnings

import hyperspy.api as hs
import matplotlib.pyplot as plt

import hyperspy_fusion

maps, haadf = hyperspy_fusion.data.co3o4_mn3o4()

# %%
# As published
# ------------
#
# These maps are so empty that the guide starts from the pixels above a fifth of each
# map's range, with weights that are some ten times smaller than those for DyScO₃.
published = hyperspy_fusion.fuse_published(
    maps,
    haadf,
    initial_threshold=0.2,
    lambda_chem=0.006,
    lambda_tv=0.022,
    epsilon=0.01,
    n_iter_tv=6,
)
hyperspy_fusion.plot_fusion(maps, published, haadf)

# %%
# How to read the costs
# ---------------------
#
# The HAADF term falls by a factor of 35: the image is explained. The chemical term
# *rises* nearly threefold, in 25 of 29 steps. That it rises is no error, since the
# measured maps, where the iteration starts, fit themselves best. But such a rise says
# that the maps left the measurement for the sake of the image.
hyperspy_fusion.plot_convergence(published)
print(published[0].metadata.Multimodal_fusion.status)

# %%
# The weight of the total variation
# ---------------------------------
#
# Under, right and over, for manganese: the guide's weight is the middle one.
weights = {"under": 0.002, "right": 0.022, "over": 0.2}
options = {"initial_threshold": 0.2, "lambda_chem": 0.006, "epsilon": 0.01}
manganese = [
    hyperspy_fusion.fuse_published(
        maps, haadf, lambda_tv=weight, n_iter_tv=30, **options
    )[1]
    for weight in weights.values()
]
view = hs.roi.RectangularROI(50, 60, 350, 360)  # pixels: the file tells no pixel size
hs.plot.plot_images(
    [view(image) for image in (maps[1], *manganese)],
    label=["Mn measured", *(f"{name}, λ = {w}" for name, w in weights.items())],
    per_row=4,
    cmap="inferno",
    axes_decor="off",
    colorbar="multi",
    vmax="99.8th",
    padding={"wspace": 0.5},
    fig=plt.figure(figsize=(12, 3)),
)

# %%
# The default
# -----------
#
# The maps are multiples of single electrons, some 5000 of cobalt on 160 000 pixels, and
# are taken for counts. Half of them are hidden and predicted from the others, with the
# image a little better than without. So it is used, with a small weight, but for the
# pixels where it contradicts the maps.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the summary tells them again
    default = hyperspy_fusion.fuse_multimodal(maps, haadf)
print(hyperspy_fusion.summarize(default))

# %%
# Side by side. The colours of each map begin at 0 and end at its own 99.5th percentile,
# since the scales differ.
rows = {"measured": maps, "as published": published, "default": default}
hs.plot.plot_images(
    [view(image) for images in rows.values() for image in images],
    label=[f"{element}, {name}" for name in rows for element in ("Co", "Mn", "O")],
    per_row=3,
    cmap="inferno",
    axes_decor="off",
    colorbar="multi",
    vmin=0,
    vmax="99.5th",
    padding={"wspace": 0.4},
    fig=plt.figure(figsize=(10, 8)),
)

# %%
# Which one is right? Nobody knows the truth here, but the sums of the maps are
# measured. The published maps have the sharp outlines of the image, and the amounts
# that explain it: ten times the metals that were counted, and less oxygen. The default
# keeps what was counted: hollow shells of manganese around cubes of cobalt. Outlines of
# oxygen are those of the image; those of the metals are as soft as the counts allow.
for name, images in rows.items():
    sums = [image.data.sum(dtype=float) for image in images]
    print(f"{name:12}  " + "Co {:.1f}, Mn {:.1f}, O {:.1f}".format(*sums))

# %%
# The default subtracted the mean counts of the vacuum as background (``background=0``
# keeps them), a fifth of the cobalt but only a seventeenth of the manganese.
#
# With ``lambda_haadf=0`` the image is left out: the metals look much the same, oxygen
# becomes a cloud. All is saved as in :doc:`plot_dysco3`.
