"""Widgets for notebooks, made with those of hyperspy_gui_ipywidgets."""

from typing import Any

import ipywidgets
import numpy as np
from hyperspy_gui_ipywidgets.utils import add_display_arg
from link_traits import link


@add_display_arg
def tune_weights(obj: Any, **_: Any) -> dict[str, Any]:
    """Sliders, preview and buttons of a :class:`~hyperspy_fusion.tuning.WeightTuner`.

    Returns the box under "widget" and its parts under "wdict".
    """
    wide = {"description_width": "initial"}
    sliders = {}
    for name, label in (
        ("lambda_tv", "Regulariser, lambda_tv"),
        ("lambda_haadf", "HAADF image, lambda_haadf"),
    ):
        least, most = obj.range_of(name)
        sliders[name] = ipywidgets.FloatLogSlider(
            min=np.log10(least),
            max=np.log10(most),
            step=0.02,
            description=label,
            style=wide,
            layout={"width": "60%"},
        )
        link((obj, name), (sliders[name], "value"))
    use = ipywidgets.Checkbox(description="Use the HAADF image", indent=False)
    link((obj, "use_haadf"), (use, "value"))
    message = ipywidgets.Label()
    link((obj, "message"), (message, "value"))
    apply = ipywidgets.Button(
        description="Apply to all",
        tooltip="Fuse all of the data with these weights; changes the fused maps.",
    )
    apply.on_click(lambda _: obj.apply())
    close = ipywidgets.Button(description="Close", tooltip="Close the preview.")
    picture = ipywidgets.Image(format="png", layout={"align_self": "flex-start"})
    link((obj, "picture"), (picture, "value"))
    buttons = ipywidgets.HBox([apply, close])
    box = ipywidgets.VBox([*sliders.values(), use, picture, message, buttons])
    close.on_click(lambda _: box.close())
    wdict = {
        **sliders,
        "use_haadf": use,
        "message": message,
        "apply_button": apply,
        "close_button": close,
        "picture": picture,
        "tuner": obj,  # which has the fused maps
    }
    return {"widget": box, "wdict": wdict}
