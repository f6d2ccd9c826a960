"""Optuna's samplers by name.

Adding one: write a function (seed, study_seed) -> sampler and name it in SAMPLERS. `seed` differs each time a study is
resumed, `study_seed` never does.
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
HISTORY = 300  # latest trials that models learn from, beside the front; several generations of NSGA
STARTUP, CANDIDATES = 20, 4  # of TPE: trials at random first, and draws of which the best is taken
POPULATION = 24  # of a generation of NSGA


def _tpe(seed: int, study_seed: int) -> samplers.BaseSampler:
    # Optuna's own 10 and 24 lead it back to where it was: replayed, its front stood still (reports/sweep).
    inner = samplers.TPESampler(
        seed=seed, multivariate=True, group=True, n_startup_trials=STARTUP, n_ei_candidates=CANDIDATES
    )
    return Windowed(inner, HISTORY)


def _nsga2(seed: int, study_seed: int) -> samplers.BaseSampler:
    return Windowed(samplers.NSGAIISampler(seed=seed, population_size=POPULATION), HISTORY)


def _nsga3(seed: int, study_seed: int) -> samplers.BaseSampler:
    return Windowed(samplers.NSGAIIISampler(seed=seed, population_size=POPULATION), HISTORY)


def _gp(seed: int, study_seed: int) -> samplers.BaseSampler:
    return Windowed(samplers.GPSampler(seed=seed, warn_independent_sampling=False), HISTORY)


def _qmc(seed: int, study_seed: int) -> samplers.BaseSampler:
    first = samplers.RandomSampler(seed=seed)  # for the first trial only; after it the sequence of the study's own seed
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
