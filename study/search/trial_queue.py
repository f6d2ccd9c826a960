"""The queue of trials: the next trial of the search, and of the controls and confirmations after it."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from study.config import Recipe, StudyFile
from study.config import axes as spaces
from study.samplers.windowed import Windowed
from study.search import recovery, suggestions
from study.search.journal_check import KINDS, Known
from study.search.trial_store import TrialStore, trial_seed
from study.selection.prior import NOTHING, Prior
from study.training.epochs import Row
from study.trials.context import CONFIRMING, RUNS, Ticket
from study.trials.rows import failed_row

NO_ROW = "no readable line holds its row (it was running, ran again, or its line is damaged)"
Finder = Callable[[Row], tuple[Row, list[Row]] | None]  # a recipe -> its row and history, if it need not run


class TrialQueue:
    """Returns the next trial of the study in `folder`; finished trials are told to its `store`.

    Open trials of an earlier process are recovered first. If `known` returns a row for a recipe of the search, that row
    is recorded at once and nothing runs. The front of a `prior` is tried after the study's own first recipes. Raises as
    `TrialStore`, and ValueError if the journal is another study's.
    """

    def __init__(
        self, folder: Path, file: StudyFile, known: Finder = lambda recipe: None, prior: Prior = NOTHING
    ) -> None:
        self.file, self._known = file, known
        self._axes, self._seeds = file.axes, file.study.seeds
        if file.study.search == "grid":
            self._axes = {k: axis.model_copy(update={"choices": axis.values()}) for k, axis in self._axes.items()}
        self._sampler_name = file.study.sampler if file.study.search == "optuna" else "tpe"
        self._fixed = [{k: spaces.label(v) for k, v in r.items()} for r in file.study.start_with]
        self.prior = prior
        self._fixed += [recipe for recipe in prior.fixed() if recipe not in self._fixed]
        if file.study.search == "grid":
            points = ({k: spaces.label(v) for k, v in point.items()} for point in spaces.grid(self._axes))
            self._fixed += [point for point in points if point not in self._fixed]
        self.store = TrialStore(folder, file)
        self._search = self.store.search
        try:
            self.store.write_identity()
            self._jobs = recovery.recover(self.store)  # keys of controls and confirmations that finished or run
        except BaseException:
            self.store.close()
            raise
        trials = self._search.get_trials(deepcopy=False)
        self._waiting = sum(trial.state == TrialState.WAITING for trial in trials)  # enqueued, not yet asked for
        # Recipes started by the search, without further seeds and runs after a loss.
        self._begun = sum(_is_fresh(trial) for trial in trials if trial.state != TrialState.WAITING)
        self._first_complete: dict[str, str] = {}  # recipe as JSON -> id of its first complete trial
        self._runs: defaultdict[str, set[int]] = defaultdict(set)  # parameters as JSON -> runs that have begun
        for trial in trials:
            if "seed" in trial.user_attrs:
                self._runs[_json(trial.params)].add(trial.user_attrs["seed"] % RUNS)
        self._indexed = 0  # of the store's told trials, how many are in _first_complete
        self._search.sampler = suggestions.sampler(file, len(trials))

    def learn(self, dense: Row) -> None:
        """Show the sampler the prior's trials. dense: the baseline's card."""
        if isinstance(self._search.sampler, Windowed):
            values = self.prior.values(self.file.study.objectives, dense)
            self._search.sampler.prior = suggestions.finished(self.file.axes, self.prior.recipes, values)

    def ask(self) -> Ticket | None:
        """The next trial of the search, or None if no further one is to start."""
        while self.store.finished + self.store.running < self.store.runs:
            self._enqueue_fixed()
            if self.file.study.screen and not self._waiting and (ticket := self._candidates()):
                return ticket
            trial = self._search.ask()
            self._waiting -= self._waiting > 0
            self._begun += _is_fresh(trial)
            recipe = suggestions.draw(trial, self._axes, self._sampler_name)
            self._enqueue_copy(trial)
            self._seed(trial)
            ticket = self.store.open(trial, "search", recipe)
            try:
                Recipe(**recipe)
            except ValueError as error:  # an invalid combination of axes
                self.store.tell(ticket, failed_row(recipe, str(error)), [])
                continue
            if not (found := self._stored(recipe) or self._known(recipe)):
                return ticket
            row, history = found
            self.store.tell(ticket._replace(seed=row["seed"]), {**row, "repeats": row.get("trial_id")}, history)
        return None

    def _candidates(self) -> Ticket | None:
        """A ticket for screening new recipes; None if only invalid combinations of axes were drawn."""
        assert self.file.study.screen
        tickets = list[Ticket]()
        for _ in range(count := self.file.study.screen.candidates):
            trial = self._search.ask()
            trial.set_user_attr("candidate", True)
            recipe = suggestions.draw(trial, self._axes, self._sampler_name)
            self._seed(trial)
            try:
                Recipe(**recipe)
            except ValueError as error:
                ticket = self.store.open(trial, "search", recipe, rival=True)
                self.store.tell(ticket, failed_row(recipe, str(error)) | {"state": "screened"}, [])
            else:
                tickets.append(self.store.open(trial, "search", recipe, rival=bool(tickets)))
        self._begun += count
        if not tickets:
            return None
        return tickets[0]._replace(candidates=[list(ticket) for ticket in tickets], earlier=list(self.store.earlier))

    def screened(self, ticket: Ticket, rows: Sequence[Row], chosen: int) -> Ticket:
        """Record the candidates of a ticket, and return the ticket of the chosen one, which is to be trained."""
        candidates = [Ticket(*candidate) for candidate in ticket.candidates]
        columns = {"screened_accuracy": rows[chosen].get("screened_accuracy")}
        trial = self.store.choose(candidates[chosen].trial_id, columns)
        self._enqueue_copy(trial)
        for number, (candidate, row) in enumerate(zip(candidates, rows, strict=True)):
            if number != chosen:
                self.store.tell(candidate, row, [])
        return candidates[chosen]._replace(screened=columns)

    def ask_control(self, control: str, recipe: Row, confirms: str | None = None) -> Ticket | None:
        """A control trial, outside the search and hidden from the sampler; None if it finished or runs."""
        return self._ask_extra("control", recipe, {"control": control, "confirms": confirms})

    def ask_scratch(self, front: Iterable[Row]) -> Ticket | None:
        """The next cut network of the front (rows of the search) to train from scratch, or None.

        Source: Liu et al. 2019, arXiv:1810.05270.
        """
        cut = (row["trial_id"] for row in front if row["granularity"] == "channel" and not row.get("repeats"))
        tickets = (self.ask_control("scratch", self.store.recipe(trial_id), trial_id) for trial_id in cut)
        return next(filter(None, tickets), None)

    def ask_confirm(self, front: Iterable[Row]) -> Ticket | None:
        """The next run of a recipe of the front (rows of the search) with a further seed, or None."""
        for trial_id in (row["trial_id"] for row in front if not row.get("repeats")):
            for copy in range(self.file.study.confirm_seeds):
                attributes = {"confirms": trial_id, "copy": copy}
                if ticket := self._ask_extra("confirm", self.store.recipe(trial_id), attributes):
                    return ticket
        return None

    def _seed(self, trial: Trial) -> None:
        """Give a trial of the search its seed; one that runs again after a loss has it."""
        begun = self._runs[_json(trial.params)]
        if "seed" not in trial.user_attrs:
            run = next(number for number in itertools.count() if number not in begun)
            trial.set_user_attr("seed", trial_seed(self.file.study.seed, "search", trial.number, run=run))
        begun.add(trial.user_attrs["seed"] % RUNS)

    def _ask_extra(self, kind: str, recipe: Row, attributes: Mapping[str, Any], seed: int = 0) -> Ticket | None:
        """A control or confirmation; None if it finished or runs. seed: if it had one."""
        job = _json([kind, attributes])
        if job in self._jobs:
            return None
        self._jobs.add(job)
        confirmed = [] if attributes["confirms"] is None else [int(attributes["confirms"])]
        trial = self.store.studies[kind].ask()
        copy = attributes.get("copy", 0)
        run = CONFIRMING + copy if kind == "confirm" else None
        seed = seed or trial_seed(self.file.study.seed, kind, copy, *confirmed, run=run)
        trial.set_user_attr("aside", {**attributes, "job": job, "recipe": recipe, "seed": seed})
        return self.store.open(trial, kind, recipe)

    def take_over(self, trials: Mapping[str, Known]) -> dict[str, str]:
        """Record the trials of a damaged journal (by id) in this new one, under the same ids and with the same seeds.

        Recipes that the damaged journal had begun, but that are not among them, are enqueued where the study names them
        (a grid, `start_with`, further seeds). Returns the ids of trials that cannot be taken over, and why.
        """
        lost: dict[str, str] = {}
        runs: Counter[str] = Counter()
        for number, trial_id, known in _numbered(trials, "search"):
            recipe = known and recovery.recipe_of(known, self.file.axes)
            if not (known and recipe):
                lost[trial_id] = "its row holds no recipe of this study" if known else NO_ROW
                self._skip("search")
                continue
            labels = {key: spaces.label(value) for key, value in recipe.items()}
            attributes = {"seed": known.row["seed"], **({"copy": True} if runs[_json(labels)] % self._seeds else {})}
            self._search.enqueue_trial(known.params | labels, user_attrs=attributes)
            runs[_json(labels)] += known.row["state"] != "screened"
            trial = self._search.ask()
            suggestions.draw(trial, self._axes, self._sampler_name)
            self._seed(trial)
            self.store.tell(self.store.open(trial, "search", recipe), known.row, known.history)
            assert trial.number == number
        self._enqueue_missing(runs, begun=sum(1 for _ in _numbered(trials, "search")))
        for kind in ("control", "confirm"):
            for _, trial_id, known in _numbered(trials, kind):
                ticket = self._ask_again(kind, known.row) if known else None
                if known and ticket:
                    self.store.tell(ticket, known.row, known.history)
                else:
                    lost[trial_id] = "what it controls or confirms is lost" if known else NO_ROW
                    self._skip(kind)
        return lost

    def _skip(self, kind: str) -> None:
        """Use up the number of a lost trial."""
        study = self.store.studies[kind]
        study.enqueue_trial({}, user_attrs={"copy": True})
        study.tell(study.ask(), state=TrialState.FAIL)

    def _enqueue_missing(self, runs: Mapping[str, int], begun: int) -> None:
        """Enqueue the first `begun` fixed recipes unless they ran, and the further seeds of those that did."""
        done = [json.loads(text).items() for text in runs]
        for point in self._fixed[:begun]:
            if not any(json.loads(_json(point)).items() <= recipe for recipe in done):
                self._search.enqueue_trial(point)
        for text, count in runs.items():
            if left := -count % self._seeds:
                attributes = {"copy": True, "copies": left - 1}
                self._search.enqueue_trial(json.loads(text), user_attrs=attributes)

    def _ask_again(self, kind: str, row: Row) -> Ticket | None:
        """The control or confirmation that has this row; None if it is none of this study's, or of a lost trial."""
        confirms = row.get("confirms")
        if confirms is not None and confirms not in self.store.records:
            return None
        recipe = {} if confirms is None else self.store.recipe(confirms)
        if kind == "control":
            return self.ask_control(row["schedule"], recipe, confirms)
        numbers = [] if confirms is None else [int(confirms)]
        for copy in range(self.file.study.confirm_seeds):
            # Folders of earlier versions have seeds without a run.
            seeds = [trial_seed(self.file.study.seed, kind, copy, *numbers, run=r) for r in (CONFIRMING + copy, None)]
            if row["seed"] in seeds:
                return self._ask_extra(kind, recipe, {"confirms": confirms, "copy": copy}, row["seed"])
        return None

    def _enqueue_fixed(self) -> None:
        if self._begun < len(self._fixed) and not self._waiting:
            self._search.enqueue_trial(self._fixed[self._begun])
            self._waiting += 1

    def _enqueue_copy(self, trial: Trial) -> None:
        """Enqueue the recipe once more while runs with further seeds are due (`study.seeds`)."""
        copies = trial.user_attrs.get("copies", self.file.study.seeds - 1)
        if copies:
            attrs = {"copies": copies - 1, "copy": True, "of": trial.number}
            self._search.enqueue_trial(trial.params, user_attrs=attrs)
            self._waiting += 1

    def _stored(self, recipe: Row) -> tuple[Row, list[Row]] | None:
        """Row and history of the first complete run of a recipe, if the study reuses results (`repeats: stored`)."""
        if self.file.study.repeats != "stored":
            return None
        for trial_id in self.store.told[self._indexed :]:
            row = self.store.records[trial_id][0]
            if row["kind"] == "search" and row["state"] == "complete" and "repeats" not in row:
                self._first_complete.setdefault(_json(self.store.recipe(trial_id)), trial_id)
        self._indexed = len(self.store.told)
        return self.store.records.get(self._first_complete.get(_json(recipe), ""))


def _numbered(trials: Mapping[str, Known], kind: str) -> Iterator[tuple[int, str, Known | None]]:
    """Number, id and trial, of all numbers of a kind up to the highest; None: not known."""
    known = [int(trial_id[len(KINDS[kind]) :]) for trial_id in trials if trial_id.rstrip("0123456789") == KINDS[kind]]
    for number in range(max(known, default=-1) + 1):
        trial_id = f"{KINDS[kind]}{number:04d}"
        yield number, trial_id, trials.get(trial_id)


def _is_fresh(trial: Trial | FrozenTrial) -> bool:
    return "copy" not in trial.user_attrs


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
