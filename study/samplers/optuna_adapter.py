"""All uses of Optuna's private API (Optuna 5), each with the reason and the public API that would replace it.

`tests/study/samplers/test_optuna_adapter.py` checks each of them, so that an incompatible upgrade is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial


def storage_id(trial: Trial | FrozenTrial) -> int:
    """The storage's id of a trial. It differs from `trial.number` where a journal holds several studies.

    Private: `_trial_id`. Replaceable by a public lookup of one trial by its number.
    """
    return trial._trial_id


def stored_trial(storage: BaseStorage, trial: Trial) -> FrozenTrial:
    """The current state of a trial in the storage.

    Private: `_trial_id`. The public `study.get_trials()[number]` visits all trials: with 10,000 of them this is the
    largest part of the driver's time per trial.
    """
    return storage.get_trial(trial._trial_id)


def trial_by_number(storage: BaseStorage, study: optuna.Study, number: int) -> FrozenTrial:
    """The trial with this number. Private: `_study_id`, for the same reason as in `stored_trial`."""
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def reopen_trial(study: optuna.Study, trial: FrozenTrial) -> Trial:
    """A trial that an earlier process asked for, as an object that this process can write attributes to and tell.

    Private: `_trial_id`. `study.tell` also takes a number, but attributes must be written first.
    """
    return Trial(study, trial._trial_id)


def trial_parameters(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters of a trial, including enqueued ones not yet suggested when its process was killed.

    Private: the system attribute `fixed_params`. Replaceable by a public view of enqueued parameters.
    """
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def journal_marks(log: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of Optuna's own that a line of a journal sets. Private: their names in the file.

    Raises TypeError or ValueError if the line holds no mapping of them.
    """
    return dict(log.get("system_attr", log.get("system_attrs", {})))


def write_violations(storage: BaseStorage, trial: Trial, violations: Sequence[float]) -> None:
    """Write by how much a trial violates each constraint; at most 0 where it holds.

    Private: the system attribute `constraints`, a list, as written by versions before 5. optuna-dashboard 0.21 does
    not read what `Trial.set_constraint` writes.
    """
    if violations:
        storage.set_trial_system_attr(trial._trial_id, "constraints", list(violations))


def nsga_parents(study: optuna.Study) -> list[int]:
    """Storage ids of the parents of NSGA's latest generation; empty for other samplers.

    Private: study system attributes with ":parent:" in their key. Samplers here see only a window of trials
    (`windowed.Windowed`), which the parents may have left.
    """
    attributes = study._storage.get_study_system_attrs(study._study_id)
    return next((attributes[key] for key in reversed(attributes) if ":parent:" in key), [])


def restricted_study(study: optuna.Study, storage_ids: Sequence[int], others: Sequence[FrozenTrial] = ()) -> Any:
    """A view of the study that shows a sampler only these trials, and `others` of no study."""
    own = [study._storage.get_trial(storage_id) for storage_id in storage_ids]
    return _RestrictedStudy(study, [*others, *own])


class _RestrictedStudy:
    """A view of a study that holds only these trials.

    Private: samplers call `study._get_trials`. Replaceable by a sampler option that limits its history.
    """

    def __init__(self, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        self._study, self._trials = study, trials

    def _get_trials(self, deepcopy: bool = False, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    get_trials = _get_trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)
