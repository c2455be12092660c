"""
Fuse a series
=============

Particles are recorded again and again under the beam, with few counts each time. All
images are fused in one call, with one set of weights.
"""

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np

import hyperspy_fusion

# %%
# Six images of 96 x 96 pixels, one every 30 s, with decreasing counts: 3 a map
# in the brightest pixels of the first image, 1 in those of the last, in the mean over
# the elements. ``hs.stack`` puts them on a navigation axis.
specimens = [
    hyperspy_fusion.data.core_shell(size=96, counts=counts, seed=seed)
    for seed, counts in enumerate(np.linspace(3, 1, 6))
]


def series(signals):
    """Signals one after the other, with time as their navigation axis."""
    stack = hs.stack(signals, show_progressbar=False)
    time = stack.axes_manager.navigation_axes[0]
    time.name, time.units, time.scale = "time", "s", 30
    return stack


maps = [series([s.maps[i] for s in specimens]) for i in range(3)]
truth = [series([s.truth[i] for s in specimens]) for i in range(3)]
haadf = series([s.haadf for s in specimens])
print(maps[0])

# %%
# With ``weights="shared"`` the weights are chosen from three images for all, which
# takes less time and keeps the images of the series comparable.
fused = hyperspy_fusion.fuse_multimodal(
    maps, haadf, weights="shared", background=0.02, show_progressbar=False
)
record = fused[0].metadata.Multimodal_fusion
print("lambda_tv", record.lambda_tv, "lambda_haadf", record.lambda_haadf)
print("iterations", record.n_iter)

# %%
# The first and the last cobalt map in counts, as measured and as fused.
hs.plot.plot_images(
    [maps[0].inav[0], maps[0].inav[-1], fused[0].inav[0], fused[0].inav[-1]],
    label=["0 s", "150 s", "0 s, fused", "150 s, fused"],
    per_row=2,
    cmap="inferno",
    colorbar="multi",
    axes_decor="off",
    scalebar=[0],
    tight_layout=True,
)


# %%
# The error relative to the truth, image by image.
def errors(signals):
    """Relative error of each image of a series."""
    difference = np.stack([s.data for s in signals]) - np.stack([t.data for t in truth])
    norm = np.linalg.norm([t.data for t in truth], axis=(2, 3))
    return np.mean(np.linalg.norm(difference, axis=(2, 3)) / norm, axis=0)


time = maps[0].axes_manager.navigation_axes[0].axis
figure, panel = plt.subplots(figsize=(6, 3.5), layout="constrained")
panel.plot(time, errors(maps), "o-", label="measured")
panel.plot(time, errors(fused), "o-", label="fused")
panel.set(xlabel="time (s)", ylabel="relative error, mean over elements")
panel.grid(alpha=0.3)
panel.set_ylim(bottom=0)
panel.legend()
