"""
Time series with drift
======================

Frames between which the specimen moved: the HAADF images tell by how much, and maps and
images are moved back together. Then the frames are fused, each by itself or their sum.
"""

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np

import hyperspy_fusion

# %%
# Five frames of few counts, in which the specimen moves by whole pixels: windows of 96
# x 96 pixels of a larger field.
drift = [(0, 0), (3, -2), (7, -3), (10, -7), (14, -9)]  # y, x in pixels
frames = [
    hyperspy_fusion.data.core_shell(size=128, counts=1, electrons=500, seed=seed)
    for seed in range(len(drift))
]


def series(signals):
    """Windows that move with the drift, as a series in time."""
    windows = [
        signal.isig[16 - x : 112 - x, 16 - y : 112 - y]
        for signal, (y, x) in zip(signals, drift, strict=True)
    ]
    for window in windows:  # the microscope knows nothing of the drift
        for axis in window.axes_manager.signal_axes:
            axis.offset = 0
    stack = hs.stack(windows)
    time = stack.axes_manager.navigation_axes[0]
    time.name, time.units, time.scale = "time", "s", 60
    return stack


maps = [series([frame.maps[i] for frame in frames]) for i in range(3)]
truth = [series([frame.truth[i] for frame in frames]) for i in range(3)]
haadf = series([frame.haadf for frame in frames])

# %%
# Measure the drift
# -----------------
#
# Each HAADF image is correlated with the first; the edges in them are compared (a Sobel
# filter, the default), which noise disturbs less. The result is in whole pixels: counts
# that are moved by whole pixels stay counts, with the noise of counts, which an
# interpolation would smear.
shifts = haadf.estimate_shift2D(normalize_corr=True)
print("true ", *drift)
print("found", *(tuple(map(int, shift)) for shift in shifts))

# %%
# Move maps and images back
# -------------------------
#
# ``crop=True`` keeps the pixels that all frames show.
for signal in (*maps, *truth, haadf):
    signal.align2D(shifts=shifts, crop=True, interpolation_order=0)
print(haadf)

# %%
# Fuse the frames, and their sum
# ------------------------------
#
# One set of weights for all frames keeps them comparable. If the specimen does not
# change, the sum of the frames tells more: maps are summed, images are averaged.
frame_by_frame = hyperspy_fusion.fuse_multimodal(maps, haadf, weights="shared")
total = [signal.sum("time") for signal in maps]
together = hyperspy_fusion.fuse_multimodal(total, haadf.mean("time"))

# %%
# Compared with the truth.


def error(images, truth):
    """Relative error, mean over the elements."""
    return np.mean(
        [
            np.linalg.norm(image.data - true.data) / np.linalg.norm(true.data)
            for image, true in zip(images, truth, strict=True)
        ]
    )


true_total = [signal.sum("time") for signal in truth]
print(f"frames  {error(maps, truth):.2f} -> {error(frame_by_frame, truth):.2f}")
print(f"sum     {error(total, true_total):.2f} -> {error(together, true_total):.2f}")
hs.plot.plot_images(
    [maps[1].inav[0], frame_by_frame[1].inav[0], total[1], together[1]],
    label=["Mn, one frame", "fused", "Mn, sum of five", "fused"],
    per_row=4,
    cmap="inferno",
    colorbar="multi",
    axes_decor="off",
    scalebar=[0],
    fig=plt.figure(figsize=(12, 3)),
)
