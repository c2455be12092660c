"""Options of the calibrated method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..common.options import Options, choice, flag, number, numbers, whole_number

Regularizer = Literal["tgv", "tv"]
_REFITS = 10  # where replicas are not asked for


@dataclass(frozen=True, kw_only=True)
class CalibratedOptions(Options):
    """Options of :func:`~hyperspy_fusion.fuse_multimodal`, which describes them.

    None as `lambda_haadf`, `lambda_tv` or `haadf_offset`, or for an image in
    `lambda_elastic`, means "auto".
    """

    lambda_haadf: Any = number(None, least=0, instead="'auto'")
    lambda_elastic: Any = numbers(least=0, instead="'auto'")
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

    @property
    def of_weights(self) -> dict[str, Any]:
        """What :func:`~.weights.weigh` has to know: the seed, and given weights."""
        return {
            "seed": self.seed,
            "lambda_tv": self.lambda_tv,
            "lambda_haadf": self.lambda_haadf,
        }

    def elastic_weights(self, names: Sequence[str]) -> tuple[float | None, ...]:
        """μ of the elastic images of these names, None where it is to be chosen."""
        given = self.lambda_elastic
        if given is None:
            return (None,) * len(names)
        if not names:
            raise ValueError(
                "lambda_elastic was given without elastic: expected weights of further "
                "elastic images only together with these"
            )
        if isinstance(given, Mapping):
            unknown = [name for name in given if name not in names]
            if unknown:
                raise ValueError(
                    f"lambda_elastic has a weight of {', '.join(unknown)}: expected "
                    f"weights of {', '.join(names)}, the elastic images"
                )
            return tuple(given.get(name) for name in names)
        if len(given) != len(names):
            raise ValueError(
                f"lambda_elastic has {len(given)} weights and there are {len(names)} "
                f"elastic images, {', '.join(names)}: expected one for each"
            )
        return given
