"""Optuna's samplers by name.

To add one, write a function (seed, study_seed) -> sampler and add it to SAMPLERS. `seed` changes each time a study is
resumed; `study_seed` does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna import samplers
from optuna.study import StudyDirection

from study.samplers.windowed import Windowed

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
WINDOW = 300  # latest trials that samplers learn from, besides the front; several generations of NSGA
STARTUP, CANDIDATES = 20, 4  # TPE: random trials before its model is used; candidates per suggestion
POPULATION = 24  # trials per generation of NSGA


def _tpe(seed: int, study_seed: int) -> samplers.BaseSampler:
    # With Optuna's defaults, 10 and 24, replayed searches repeated points and the front stagnated (reports/sweep).
    inner = samplers.TPESampler(
        seed=seed, multivariate=True, group=True, n_startup_trials=STARTUP, n_ei_candidates=CANDIDATES
    )
    return Windowed(inner, WINDOW)


def _nsga2(seed: int, study_seed: int) -> samplers.BaseSampler:
    return Windowed(samplers.NSGAIISampler(seed=seed, population_size=POPULATION), WINDOW)


def _nsga3(seed: int, study_seed: int) -> samplers.BaseSampler:
    return Windowed(samplers.NSGAIIISampler(seed=seed, population_size=POPULATION), WINDOW)


def _gp(seed: int, study_seed: int) -> samplers.BaseSampler:
    return Windowed(samplers.GPSampler(seed=seed, warn_independent_sampling=False), WINDOW)


def _qmc(seed: int, study_seed: int) -> samplers.BaseSampler:
    first = samplers.RandomSampler(seed=seed)  # only for the first trial; later ones follow the study seed's sequence
    return samplers.QMCSampler(
        seed=study_seed, scramble=True, independent_sampler=first, warn_independent_sampling=False
    )


SAMPLERS: dict[str, Callable[[int, int], samplers.BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "gp": _gp,
    "qmc": _qmc,
}
