"""
EELS model fit, fusion
======================

Edges that overlap are separated by a model. Its intensities, with the variance of each
pixel that the fit has found, are fused.
"""

import exspy
import matplotlib.pyplot as plt
import numpy as np

import hyperspy_fusion

# %%
# A spectrum image
# ----------------
#
# Simulated: edges of cobalt, manganese and oxygen on the background of a power law. The
# edge of cobalt lies on the tail of that of manganese, and this on the tail of oxygen.
# With your own data, this section is ``hs.load("specimen.dm4")``, after ``import
# hyperspy.api as hs``.
specimen = hyperspy_fusion.data.core_shell(size=64)
elements, edges = ["Co", "Mn", "O"], ["Co_L3", "Mn_L3", "O_K"]


def model_of(spectra):
    """Edges from atomic physics without tables, on a power law of known exponent."""
    spectra.set_microscope_parameters(
        beam_energy=200, convergence_angle=20, collection_angle=40
    )
    spectra.add_elements(elements)
    model = spectra.create_model(GOS="hydrogenic")
    exponent = model["PowerLaw"].r
    exponent.value, exponent.free = 3, False
    exponent.assign_current_value_to_all()
    return model


axes = [axis.get_axis_dictionary() for axis in specimen.haadf.axes_manager.signal_axes]
axes.append({"name": "E", "size": 280, "offset": 450, "scale": 2, "units": "eV"})
for axis, navigate in zip(axes, (True, True, False), strict=True):
    axis["navigate"] = navigate
spectra = exspy.signals.EELSSpectrum(np.ones((64, 64, 280)), axes=axes)
energy_axis = spectra.axes_manager.signal_axes[0]
energy, channel = energy_axis.axis, energy_axis.scale
expected = np.full((64, 64, 280), 5 * (energy / 450) ** -3)
shapes = {}
for edge, true in zip(edges, specimen.truth, strict=True):
    component = model_of(spectra)[edge]
    component.intensity.value = 1
    shapes[edge] = component.function(energy)
    per_count = 100 * shapes[edge] / shapes[edge].sum()
    expected += np.multiply.outer(true.data, per_count)
spectra.data = np.random.default_rng(0).poisson(expected).astype(float)

# %%
# Fit the model
# -------------
#
# Everything that is free is linear, so that all spectra are fitted at once; the errors
# are wanted, too.
model = model_of(spectra)
model.multifit(optimizer="lstsq", calculate_errors=True)

# %%
# Intensities with their variance
# -------------------------------
#
# ``intensity.as_signal()`` is the map of an edge. Where the errors were calculated it
# brings the variance of each pixel along, and the fusion weights the pixels by it. The
# element is read from the title of the map.
maps = [model[edge].intensity.as_signal() for edge in edges]
for signal in maps:
    noise = np.sqrt(signal.get_noise_variance().data)
    print(signal.metadata.General.title, f"{noise.min():.4f} to {noise.max():.4f}")

figure, panel = plt.subplots(figsize=(8, 3.5), layout="constrained")
panel.plot(energy, spectra.data.sum(axis=(0, 1)), color="black", label="all pixels")
for edge, signal in zip(edges, maps, strict=True):
    counts = signal.data.sum() * shapes[edge] * channel  # the shape is that of an eV
    panel.plot(energy, counts, label=edge)
panel.set(xlabel="energy loss (eV)", ylabel="counts")
panel.legend()

# %%
# Fuse
# ----
fused = hyperspy_fusion.fuse_multimodal(maps, specimen.haadf)
hyperspy_fusion.plot_fusion(maps, fused, specimen.haadf)
print(hyperspy_fusion.summarize(fused))

# %%
# Compared with the truth, on the best common scale.


def errors(images):
    """Relative error of each map, root mean square."""
    found = []
    for image, true in zip(images, specimen.truth, strict=True):
        scale = np.vdot(image.data, true.data) / np.vdot(true.data, true.data)
        difference = image.data / scale - true.data
        found.append(np.linalg.norm(difference) / np.linalg.norm(true.data))
    return found


for name, images in {"fit": maps, "fused": fused}.items():
    print(f"{name:6}", *(f"{x:.2f}" for x in errors(images)))
