"""The studies by name, in the order of the report: every module of this folder that has a `STUDY`."""

import dataclasses
import importlib
import pkgutil

from experiments.studies.study import CommonOptions, Measurements, Study

_MODULES = {found.name: importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)}
_FOUND: dict[str, Study] = {name: module.STUDY for name, module in _MODULES.items() if hasattr(module, "STUDY")}

STUDIES: dict[str, Study] = dict(sorted(_FOUND.items(), key=lambda item: (item[1].place, item[0])))

# A study's own options are those of the command under its name: --landscape.points.
Options = dataclasses.make_dataclass(
    "Options",
    [(name, study.options, study.options()) for name, study in STUDIES.items() if study.options is not None],
    bases=(CommonOptions,),
    frozen=True,
)
Options.__doc__ = CommonOptions.__doc__

__all__ = ["STUDIES", "Measurements", "Options", "Study"]
