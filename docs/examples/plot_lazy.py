"""
From file to file
=================

Lazy maps are read, fused and saved tile by tile, from ``.zspy`` to ``.zspy``: the whole
image is never in memory.
"""

import tempfile
from pathlib import Path

import hyperspy.api as hs

import hyperspy_fusion

hs.preferences.General.show_progressbar = False

# %%
# Two files, as of a large measurement, with chunks of 256 x 256 pixels in the plane of
# the images.
folder = tempfile.TemporaryDirectory()
path = Path(folder.name)
specimen = hyperspy_fusion.data.core_shell(size=512)
hs.stack(specimen.maps).save(path / "maps.zspy", chunks=(1, 256, 256))
specimen.haadf.save(path / "haadf.zspy", chunks=(256, 256))

# %%
# The chunks become tiles. The call reads a sample and an overview of the image, and
# returns lazy maps.
maps = hs.load(path / "maps.zspy", lazy=True)
haadf = hs.load(path / "haadf.zspy", lazy=True)
fused = hyperspy_fusion.fuse_multimodal(
    maps, haadf, lambda_tv=4, lambda_haadf=0.1, background=0.02
)
print(fused[0])
print(fused[0].metadata.Multimodal_fusion.status)

# %%
# Saving the stack solves all tiles, each of them once, and completes the record.
hs.stack(fused).save(path / "fused.zspy", show_progressbar=False)
saved = hs.load(path / "fused.zspy")
print(saved)
print(saved.metadata.Multimodal_fusion.status)

# %%
# The fused maps, in counts.
hs.plot.plot_images(
    saved,
    label=["Co", "Mn", "O"],
    per_row=3,
    cmap="inferno",
    colorbar="multi",
    axes_decor="off",
    scalebar=[0],
    tight_layout=True,
)
folder.cleanup()
