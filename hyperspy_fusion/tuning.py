"""Weights chosen by hand: sliders, and a part of the image that follows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import traits.api as t
from hyperspy.ui_registry import TOOLKIT_REGISTRY, UI_REGISTRY, add_gui_method
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from .core.calibrated.weights import LAMBDA_HAADF, LAMBDA_TV
from .execution.plan import check_preview, preview
from .results import update

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .core.calibrated.options import CalibratedOptions
    from .core.calibrated.preview import Preview, Previewed
    from .execution.plan import ExecutionOptions
    from .inputs.measurement import Measurement
    from .signals import ElementalMap

_KEY = "hyperspy_fusion.WeightTuner"
_PANEL, _DPI = 2.2, 110  # inches of a panel, dots an inch
_BEYOND = 10  # factor by which the sliders go beyond the weights that are tried

# Only where HyperSpy's own widgets are installed.
if "ipywidgets" in TOOLKIT_REGISTRY:
    UI_REGISTRY[_KEY]["ipywidgets"] = {
        "module": "hyperspy_fusion.widgets",
        "function": "tune_weights",
    }


@add_gui_method(toolkey=_KEY)
class WeightTuner(t.HasTraits):
    """Preview of fused maps for weights that are chosen by hand.

    :func:`~hyperspy_fusion.fuse_multimodal` makes one with ``interactive=True``. The
    calibration stays as it was found, and so do the weights of further elastic images;
    each change of a weight fuses a part of the first image again, starting from the
    last preview.

    Parameters
    ----------
    measurement : Measurement
        Maps and HAADF image.
    options : CalibratedOptions
        Options of the method.
    execution : ExecutionOptions
        How it is run.
    fuse : callable
        ``fuse(options)`` returns fused maps.

    Attributes
    ----------
    lambda_tv, lambda_haadf : float
        Weights λ and μ of the preview, at first those of the fusion.
    use_haadf : bool
        Whether the HAADF image is used; without it μ is 0.
    message : str
        Which pixels are shown, and how near their cost is to the optimum.
    picture : bytes
        Measured maps above fused maps, and the misfit of the HAADF image and of the
        counts against λ, joined where the weight of the HAADF image is that of the
        preview; a PNG file.
    fused : list of ElementalMap
        The fused maps, which :meth:`apply` changes in place.

    Raises
    ------
    ValueError
        If the data are lazy or fused in tiles.
    """

    lambda_tv = t.Float(LAMBDA_TV[-1])
    lambda_haadf = t.Float(LAMBDA_HAADF[2])
    use_haadf = t.Bool(True)  # noqa: FBT003 - the default
    message = t.Str()
    picture = t.Bytes()

    def __init__(
        self,
        measurement: Measurement,
        options: CalibratedOptions,
        execution: ExecutionOptions,
        fuse: Callable[[CalibratedOptions], list[ElementalMap]],
    ) -> None:
        super().__init__()
        check_preview(measurement, options, execution)
        self._options, self._fuse = options, fuse
        self.fused = fuse(options)
        record = self.fused[0].metadata.Multimodal_fusion
        tv, haadf = (
            float(np.asarray(record[f"lambda_{name}"]).flat[0])
            for name in ("tv", "haadf")
        )
        given = replace(options, lambda_tv=tv, lambda_haadf=haadf)
        self._held: dict[str, Any] = {}
        if measurement.elastic_names:  # the weights of the first image, for all
            weights = np.asarray(record.lambda_elastic)
            n_images = len(measurement.elastic_names)
            self._held["lambda_elastic"] = weights.reshape(-1, n_images)[0]
            given = replace(given, **self._held)
        self._preview: Preview = preview(measurement, given, execution)
        self._elements = measurement.elements
        rows, columns = self._preview.window
        first = (0,) * len(measurement.navigation_shape)
        self._measured = np.asarray(measurement.maps[first][:, rows, columns])
        where = " of the first image" if first else ""
        self._where = (
            f"rows {rows.start} to {rows.stop - 1}, columns {columns.start} to "
            f"{columns.stop - 1}{where}"
        )
        if options.share:
            self._where += ", each pixel with its own counts"
        self._figure: Figure | None = None
        self._tried: list[tuple[float, float, float, float]] = []
        self.trait_set(lambda_tv=tv, use_haadf=haadf > 0)
        if haadf > 0:
            self.lambda_haadf = haadf
        self.observe(self._follow, "lambda_tv, lambda_haadf, use_haadf")
        self._follow()

    @property
    def weights(self) -> dict[str, Any]:
        """The weights as :func:`~hyperspy_fusion.fuse_multimodal` takes them."""
        haadf = self.lambda_haadf if self.use_haadf else 0.0
        return {"lambda_tv": self.lambda_tv, "lambda_haadf": haadf}

    @property
    def maps(self) -> np.ndarray:
        """Fused maps of the part that is shown, shape ``(n_elements, y, x)``."""
        return self._found.maps

    def apply(self) -> None:
        """Fuse all of the data with the weights; changes the fused maps in place."""
        for old, new in zip(
            self.fused,
            self._fuse(replace(self._options, **self.weights, **self._held)),
            strict=True,
        ):
            update(old, new)
        self.message = "Applied to all: the fused maps have these weights"

    def range_of(self, name: str) -> tuple[float, float]:
        """Smallest and largest value of a slider."""
        tried = {"lambda_tv": LAMBDA_TV, "lambda_haadf": LAMBDA_HAADF[1:]}[name]
        value = getattr(self, name)
        return min(tried[0] / _BEYOND, value), max(tried[-1] * _BEYOND, value)

    def _new_figure(self) -> Figure:
        n = len(self._elements)
        size = _PANEL * (n + 1), 2 * _PANEL
        # not one of pyplot, which a notebook would show a second time
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(2, n + 1)
        for i, element in enumerate(self._elements):
            pair = (self._measured[i], "measured"), (self.maps[i], "fused")
            for panel, (image, kind) in zip(panels[:, i], pair, strict=True):
                panel.imshow(image, cmap="inferno", interpolation="nearest")
                panel.set_title(f"{element}, {kind}", fontsize=9, y=1)
                panel.axis("off")
        labels = "HAADF misfit / noise", "deviance / pixel"
        for panel, label in zip(panels[:, -1], labels, strict=True):
            panel.set_title(label, fontsize=9, y=1)
            panel.set_xlabel("lambda_tv", fontsize=8)
            panel.set(xscale="log", xlim=self.range_of("lambda_tv"))
            panel.tick_params(labelsize=7)
            panel.minorticks_off()
        return figure

    def _follow(self, _event: Any = None) -> None:
        """Fuse the part with the present weights, and show it."""
        found: Previewed = self._preview.solve(**self.weights)
        self._found = found
        tv, haadf = self.weights.values()
        self._tried.append((tv, haadf, found.haadf**0.5, found.deviance))
        self.message = (
            f"Preview of {self._where}; its cost is within {100 * found.gap:.2g} % of "
            "the optimum"
        )
        self.picture = self._drawn()

    def _drawn(self) -> bytes:
        if self._figure is None:
            self._figure = self._new_figure()
        n = len(self._elements)
        panels = np.reshape(self._figure.axes, (2, n + 1))
        for panel, image in zip(panels[1, :n], self.maps, strict=True):
            panel.images[0].set_data(image)
            panel.images[0].set_clim(0, max(float(np.quantile(image, 0.999)), 1e-30))
        tv, haadf, *terms = np.array(self._tried).T
        for panel, values in zip(panels[:, n], terms, strict=True):
            _show_tried(panel, tv, values, haadf == haadf[-1])
        # `savefig` would draw twice, and find the layout each time
        canvas: Any = self._figure.canvas
        canvas.draw()
        self._figure.set_layout_engine("none")
        out = BytesIO()
        fast = {"compress_level": 1}
        imsave(out, canvas.buffer_rgba(), format="png", pil_kwargs=fast)
        return out.getvalue()


def _show_tried(
    panel: Axes, tv: np.ndarray, values: np.ndarray, same: np.ndarray
) -> None:
    """What was tried; the last one is marked.

    A line joins those with the `same` weight of the HAADF image, in the order of λ.
    """
    for line in list(panel.lines):
        line.remove()
    panel.plot(tv[~same], values[~same], ".", color="0.8")
    order = np.argsort(tv[same], kind="stable")
    panel.plot(tv[same][order], values[same][order], ".-", color="0.5")
    panel.plot(tv[-1:], values[-1:], "o", color="C3")


def tune(
    fuse: Callable[[CalibratedOptions], list[ElementalMap]],
    measurement: Measurement,
    options: CalibratedOptions,
    execution: ExecutionOptions,
    display: bool,  # noqa: FBT001 - as HyperSpy's
    toolkit: Any,
) -> Any:
    """Fuse, and show the widgets: fused maps, or the widgets if these are not shown."""
    if not UI_REGISTRY.get(_KEY):  # before a long fusion, not after it
        raise ImportError(
            "interactive is True and there are no widgets: install "
            "hyperspy_gui_ipywidgets, and start Python again"
        )
    tuner = WeightTuner(measurement, options, execution, fuse)
    widgets = tuner.gui(display=display, toolkit=toolkit)  # type: ignore[attr-defined]
    return tuner.fused if display else widgets
