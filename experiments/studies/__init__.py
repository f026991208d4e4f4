"""The studies by name, in the order of the report."""

from experiments.studies import (
    degradation,
    effective_depth,
    ensembles,
    lesion,
    paths,
    reorder,
    responses,
    shattered,
    stochastic_depth,
)
from experiments.studies.study import Measurements, Options, Study

STUDIES: dict[str, Study] = {
    "lesion": lesion.STUDY,
    "reorder": reorder.STUDY,
    "paths": paths.STUDY,
    "effective_depth": effective_depth.STUDY,
    "ensembles": ensembles.STUDY,
    "responses": responses.STUDY,
    "degradation": degradation.STUDY,
    "stochastic_depth": stochastic_depth.STUDY,
    "shattered": shattered.STUDY,
}

__all__ = ["STUDIES", "Measurements", "Options", "Study"]
