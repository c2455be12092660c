"""Weights that the images of a series share."""

from collections.abc import Sequence
from dataclasses import replace

from ..common.threads import workers
from .elastic import Found, examine_further
from .given import Chemistry, Pixels
from .method import understand
from .multinomial import Fractions, weigh_fractions
from .options import CalibratedOptions
from .selection import choose_further
from .slow import examine_best
from .weights import Weights, weigh


def shared_weights(
    images: Sequence[Pixels],
    chemistry: Chemistry,
    options: CalibratedOptions,
    num_workers: int | None = None,
) -> tuple[Weights, tuple[Found, ...]]:
    """Choose the weights that are best for several images together.

    Returns also the further elastic images, as they were found where they have least
    obstacles, with their weights.
    """
    examined, fractions = [], []
    seen: list[list[Found]] = []
    given = options.of_weights
    with workers(num_workers) as run:
        for pixels in images:
            preparation, prior, further = understand(
                pixels, chemistry, options, run=run
            )
            if preparation.units.total is not None:
                fractions.append(Fractions.of(preparation, prior, options, run))
                continue
            prepared = examine_best(preparation, prior, run, given)[0].prepared
            if further is not None:
                found, prepared = examine_further(preparation, prepared, further, run)
                seen.append(found)
            examined.append(prepared.take(preparation.tiles))
        if not fractions:
            alone = [replace(prepared, elastic=()) for prepared in examined]
            weights = weigh(alone, run, **given)
            if not seen:
                return weights, ()
            # of each image where it has no obstacle, if there is such a position
            best = [
                min(found, key=lambda one: bool(one.obstacle))
                for found in zip(*seen, strict=True)
            ]
            selection = choose_further(
                best,
                examined,
                weights,
                run,
                given=options.elastic_weights(chemistry.elastic_names),
                **given,
            )
            return selection.weights, selection.of(best, examined[0])[0]
        if examined:
            raise ValueError(
                "some maps of the series are fractions and some are not: expected one "
                'kind for weights="shared"; fuse them with weights="per position"'
            )
        return weigh_fractions(fractions, run, **given), ()
