r"""
FGP against GP
==============

How many steps does the total-variation prox need? The minimum of

.. math:: F(x) = \tfrac12 ‖x - y‖^2 + λ\,TV(x), \quad x \ge 0

is approached by plain gradient projection (GP) and by its fast variant with momentum
(FGP), here on a quarter of the measured scandium map of DyScO₃, scaled to [0, 1].
"""

import matplotlib.pyplot as plt
import numpy as np

import hyperspy_fusion
from hyperspy_fusion.core.common.operators import (
    gradient,
    gradient_adjoint,
    total_variation,
)
from hyperspy_fusion.core.published.method import scale_to_unit
from hyperspy_fusion.core.published.tv_prox import total_variation_prox

maps, _ = hyperspy_fusion.data.dysco3()
scandium = scale_to_unit(maps[0].isig[:128, :128].data)[0].astype(float)


# %%
# The minimum F* comes from 3000 steps of FGP in double precision, written out here. The
# dual value below F* shows how exact it is.
def objective(x, weight):
    """F of an image."""
    return 0.5 * np.sum((x - scandium) ** 2) + weight * total_variation(x)


def minimum(weight, n_iter=3000):
    """F*, and a lower bound of it."""
    p = q = np.zeros((2, *scandium.shape))
    t = 1
    for _ in range(n_iter):
        x = np.maximum(scandium - weight * gradient_adjoint(q), 0)
        raised = q + gradient(x) / (8 * weight)
        new = raised / np.maximum(np.hypot(*raised), 1)
        t, before = (1 + np.sqrt(1 + 4 * t**2)) / 2, t
        p, q = new, new + (before - 1) / t * (new - p)
    x = np.maximum(scandium - weight * gradient_adjoint(p), 0)
    return objective(x, weight), 0.5 * np.sum(scandium**2 - x**2)


# %%
# Both algorithms start at zero. With the heavy weight of the DyScO₃ tutorial, FGP is
# after 120 steps nearer to the minimum than GP after 500; with the light one of the
# Co₃O₄–Mn₃O₄ tutorial, ten steps of FGP are enough for 0.05 %.
steps = [1, 2, 3, 5, 10, 20, 30, 60, 120, 250, 500]
figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for weight, panel in zip((0.15, 0.022), panels, strict=True):
    lowest, bound = minimum(weight)
    print(f"λ = {weight}: F* = {lowest:.4f}, exact to {1 - bound / lowest:.0e}")
    for algorithm in ("GP", "FGP"):
        values = [
            objective(
                total_variation_prox(scandium, weight, n, algorithm).astype(float),
                weight,
            )
            for n in steps
        ]
        panel.loglog(steps, np.array(values) / lowest - 1, "o-", label=algorithm)
    panel.set(title=f"λ = {weight}", xlabel="steps")
    panel.grid(alpha=0.3)
panels[0].set_ylabel("$(F_k - F^*) / F^*$")
panels[0].legend()

# %%
# Three steps, as in the tutorial for DyScO₃, stay a quarter above the minimum: there
# the number of steps smooths as much as the weight does.
