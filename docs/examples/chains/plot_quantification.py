"""
EDS spectrum image, fusion, at.%
================================

From the spectra of an X-ray spectrum image to maps of counts, to fused maps, and to
at.% by each of eXSpy's three methods: Cliff-Lorimer, ζ-factors and cross-sections.
"""

import exspy
import hyperspy.api as hs
import numpy as np

import hyperspy_fusion

# %%
# A spectrum image
# ----------------
#
# It is simulated from a specimen whose truth is known, particles of gold on iron oxide,
# with the lines of a family of each element at the resolution of a detector, and
# bremsstrahlung. With your own data, this whole section is ``hs.load("specimen.emd")``.
specimen = hyperspy_fusion.data.janus(size=64)
elements, lines = ["Au", "Fe", "O"], ["Au_La", "Fe_Ka", "O_Ka"]
spectra = hyperspy_fusion.data.xray_spectra(specimen.truth, lines)
print(spectra)

# %%
# Maps of counts
# --------------
#
# The counts in a window around each line, and the background below it, which is
# estimated from windows on both sides. The fusion takes counts and background apart.
maps, haadf, background = hyperspy_fusion.load_multimodal(
    [spectra, specimen.haadf], lines=lines, background_windows="auto"
)
fused = hyperspy_fusion.fuse_multimodal(maps, haadf, background)
hyperspy_fusion.plot_fusion(maps, fused, haadf, background)

# %%
# Factors
# -------
#
# Cross-sections for the production and detection of an X-ray, in barn, as from a
# standard. ζ-factors and k-factors follow from them.
cross_sections = [10.0, 13.0, 16.0]
zeta_factors = exspy.utils.eds.cross_section_to_zeta(cross_sections, elements)
k_factors = [zeta / zeta_factors[0] for zeta in zeta_factors]
factors = {"CL": k_factors, "zeta": zeta_factors, "cross_section": cross_sections}


def at_percent(intensities, method):
    """Atomic per cent by one of the methods of eXSpy."""
    found = spectra.quantification(
        intensities, method, factors[method], navigation_mask=None
    )
    return found if method == "CL" else found[0]


# %%
# The composition of the whole specimen
# -------------------------------------
#
# Sums of maps are kept by the fusion, so that a mean composition is that of the
# measured counts. (It is quantified from sums. The mean of the at.% of single pixels is
# something else: four counts a pixel make hardly more than noise of it.)
net = [signal - below for signal, below in zip(maps, background, strict=True)]
totals = {
    name: [image.sum(axis=("x", "y")) for image in images]
    for name, images in {"measured": net, "fused": fused}.items()
}
mean = {
    (method, name): [float(x.data[0]) for x in at_percent(sums, method)]
    for method in factors
    for name, sums in totals.items()
}
for (method, name), shares in mean.items():
    print(f"{method:14} {name:9}", "  ".join(f"{x:5.2f}" for x in shares))

# %%
# At.% maps
# ---------
#
# Where there is hardly anything, at.% are ratios of nothing: less than a count a pixel
# is masked. The ζ-factors also give the mass thickness, the cross-sections the number
# of atoms.
with np.errstate(all="ignore"):
    percent = at_percent(fused, "cross_section")
    noisy = at_percent(net, "cross_section")
    for image, line in zip(specimen.truth, lines, strict=True):
        image.metadata.Sample.xray_lines = [line]
    true = at_percent(specimen.truth, "cross_section")
empty = sum(image.data for image in specimen.truth) < 1
for image in (*noisy, *percent, *true):
    image.data[empty] = np.nan
hs.plot.plot_images(
    [*noisy, *percent, *true],
    label=[
        f"{element}, {name}"
        for name in ("measured", "fused", "truth")
        for element in elements
    ],
    per_row=3,
    vmin=0,
    vmax=100,
    cmap="viridis",
    colorbar="single",
    axes_decor="off",
    suptitle="at.%",
)
