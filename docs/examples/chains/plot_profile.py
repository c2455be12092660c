"""
Line profile across an interface
================================

A profile across an interface, with HyperSpy's regions of interest, along a line of one
pixel's width: no averaging beside the line is needed, which would blur an interface
that is not straight.
"""

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np

import hyperspy_fusion

# %%
# A particle of gold on one of iron oxide.
maps, haadf, truth = hyperspy_fusion.data.janus()
fused = hyperspy_fusion.fuse_multimodal(maps, haadf)

# %%
# From oxide into gold, along a line that is given in nm. ``linewidth`` is the width
# over which the profile is averaged.
line = hs.roi.Line2DROI(22, 80, 44, 120, linewidth=1)
figure, (picture, panel) = plt.subplots(
    1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=(1, 1.8)
)
x, y = fused[0].axes_manager.signal_axes
picture.imshow(fused[0].data, cmap="inferno", extent=(0, x.high_value, y.high_value, 0))
picture.plot([line.x1, line.x2], [line.y1, line.y2], color="white")
picture.set(title="Au fused", xlabel="x (nm)", ylabel="y (nm)")
for number, (element, colour) in enumerate((("Au", "C1"), ("Fe", "C0"))):
    profiles = [line(images[number]) for images in (maps, fused, truth)]
    distance = profiles[0].axes_manager.signal_axes[0].axis
    measured, clean, true = (profile.data for profile in profiles)
    panel.plot(distance, measured, ".", color=colour, alpha=0.4)
    panel.plot(distance, clean, color=colour, label=element)
    panel.plot(distance, true, ":", color="black", lw=1)
    error = [np.sqrt(np.mean((found - true) ** 2)) for found in (measured, clean)]
    print("{}  error {:.2f} measured, {:.2f} fused".format(element, *error))
panel.set(xlabel="distance (nm)", ylabel="X-rays (counts)", title="profile")
panel.grid(alpha=0.3)
panel.legend(title="lines fused\ndots measured\ndotted truth")
