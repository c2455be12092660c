"""Options of the calibrated method."""

from dataclasses import dataclass
from typing import Any, Literal

from ..common.options import Options, choice, flag, number, whole_number

Regularizer = Literal["tgv", "tv"]
_REFITS = 10  # where replicas are not asked for


@dataclass(frozen=True, kw_only=True)
class CalibratedOptions(Options):
    """Options of :func:`~hyperspy_fusion.fuse_multimodal`, which describes them.

    None as `lambda_haadf`, `lambda_tv` or `haadf_offset` means "auto".
    """

    lambda_haadf: Any = number(None, least=0, instead="'auto'")
    lambda_tv: Any = number(None, above=0, instead="'auto'")
    gamma: float = number(1.7, above=0, most=10)
    regularizer: Regularizer = choice("tgv", Regularizer)
    lock_flux: bool = flag(default=True)
    share: bool = flag(default=False)
    uncertainty: bool = flag(default=False)
    n_replicas: int | None = whole_number(None, least=2, most=10_000, instead="None")
    tolerance: float = number(1e-3, above=0)
    max_iter: int = whole_number(2000, least=1)
    haadf_offset: Any = number(None, instead="'auto'")
    seed: int = whole_number(0, least=0)

    @property
    def n_refits(self) -> int:
        """Simulated measurements that are fused for the uncertainty; 0 for none."""
        return self.n_replicas or (_REFITS if self.uncertainty else 0)
