"""All that is used of Optuna's private names, each with its reason and what would replace it.

Optuna 5. `tests/study/samplers/test_optuna_adapter.py` names each, so that an upgrade that lacks one is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial


def identity(trial: Trial | FrozenTrial) -> int:
    """The storage's number of a trial, which differs from `trial.number` where a journal holds several studies.

    Private: `_trial_id`. Would be replaced by a public way to look one trial up by its number.
    """
    return trial._trial_id


def frozen(storage: BaseStorage, trial: Trial) -> FrozenTrial:
    """A trial as it stands in the storage.

    Private: `_trial_id`. `study.get_trials()[number]` is public, and walks all trials: at 10,000 of them that is the
    largest part of what a trial costs the driver.
    """
    return storage.get_trial(trial._trial_id)


def numbered(storage: BaseStorage, study: optuna.Study, number: int) -> FrozenTrial:
    """The trial of that number; private, and replaced, as in `frozen`."""
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def reopened(study: optuna.Study, trial: FrozenTrial) -> Trial:
    """A trial that an earlier process had asked for, to be told.

    Private: `_trial_id`. `study.tell` takes a number too, but then attributes cannot be written first.
    """
    return Trial(study, trial._trial_id)


def drawn(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters of a trial, those included that were enqueued and not yet drawn when its process was killed.

    Private: the system attribute `fixed_params`. Would be replaced by a public view of what is enqueued.
    """
    return trial.system_attrs.get("fixed_params", {}) | trial.params


def write_violations(storage: BaseStorage, trial: Trial, violations: Sequence[float]) -> None:
    """Tell Optuna by how much constraints are broken: at most 0 where they hold.

    Private: the system attribute `constraints`, a list, as versions before 5 wrote it. `Trial.set_constraint` writes
    what Optuna's samplers read, and its dashboard (0.21) does not.
    """
    if violations:
        storage.set_trial_system_attr(trial._trial_id, "constraints", list(violations))


def nsga_parents(study: optuna.Study) -> list[int]:
    """The trials that NSGA noted down as the parents of its latest generation; none for other samplers.

    Private: study system attributes whose key holds ":parent:". Needed since samplers here see a window of trials only
    (`samplers.Windowed`), from which parents may have dropped out.
    """
    notes = study._storage.get_study_system_attrs(study._study_id)
    return next((notes[key] for key in reversed(notes) if ":parent:" in key), [])


def seen(study: optuna.Study, identities: Sequence[int]) -> Any:
    """The study as a sampler sees it of which only these trials are known."""
    return _SeenStudy(study, [study._storage.get_trial(identity) for identity in identities])


class _SeenStudy:
    """A study of which only these trials are seen.

    Private: samplers call `study._get_trials`. Would be replaced by a sampler's own limit on its history.
    """

    def __init__(self, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        self._study, self._trials = study, trials

    def _get_trials(self, deepcopy: bool = False, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    get_trials = _get_trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)


def constraints(trial: FrozenTrial) -> Mapping[Any, float]:
    """By how much a trial breaks each constraint, however it was written."""
    return trial.constraints
