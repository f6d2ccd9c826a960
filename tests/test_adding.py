"""Adding something is one function and one line in one dict: it is then accepted, run, drawn, tabled and documented."""

import functools
import importlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import optuna
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import models
import pruning
from analysis import report
from analysis.figures import registry as figures
from models.formats import FORMATS, Format
from pruning.allocation import weight_scopes
from pruning.allocation.scopes import SCOPES, Scope
from pruning.criteria.registry import CRITERIA, Criterion
from pruning.schedules import SCHEDULES
from pruning.weights.masks import prunable
from study import evaluate, export
from study.baseline import training
from study.baseline.network import Baseline
from study.baseline.network import save as save_baseline
from study.config import BaselineSection, Recipe, parse, read_study, reference
from study.config.columns import COLUMNS, HISTORY
from study.data.cache import Source
from study.data.sources import DATASETS
from study.results.files import write_rows, write_study
from study.samplers.registry import SAMPLERS
from study.search.trial_queue import TrialQueue
from study.simulation import searchers
from study.training.optimisers import LR_SCHEDULES, OPTIMIZERS
from study.trials.context import TrialContext
from study.trials.steps import run_trial
from tests import results_folder
from tests.conftest import TINY

CPU = torch.device("cpu")


def content(section: Any, key: Any, value: Any) -> Any:
    """A study file that names something."""
    return (
        {"study": {"name": "x", key: value}} if section == "study" else {"study": {"name": "x"}, section: {key: value}}
    )


def refused_by_schema(file: Any) -> Any:
    validator = jsonschema.Draft202012Validator(reference.json_schema())
    return not validator.is_valid(json.loads(json.dumps(file)))


def is_known(section: Any, key: Any, name: Any) -> Any:
    """Whether a study file may have `name` under `section.key`; all that tells of it must agree."""
    accepted = True
    try:
        parse(content(section, key, name), "x.yaml")
    except ValueError:
        accepted = False
    with pytest.raises(ValueError, match=f"unknown {key} 'nothing'; choices: ") as refusal:
        parse(content(section, key, "nothing"), "x.yaml")
    choices = str(refusal.value).split("choices: ")[1].removesuffix(", or package.module:function").split(", ")
    tables = [not refused_by_schema(content(section, key, name)), f"`{name}`" in reference.section_table(section)]
    assert [*tables, name in choices] == [accepted] * 3
    return accepted


def run(shared: Any, seed: Any = 0, **recipe: Any) -> Any:
    """A trial to its end: its row and its history."""
    given = {"sparsity": 0.5, "finetune_epochs": 1, "calibration_samples": 64} | recipe
    row, history, *_ = run_trial(Recipe(**given), seed, shared, CPU)
    assert row["state"] == "complete", row["error"]
    return row, history


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts one line into one dict, for the length of a test."""

    def put(names: Any, value: Any, name: Any = "mine") -> None:
        assert name not in names
        monkeypatch.setitem(names, name, value)

    return put


def counted(function: Any) -> Any:
    """The function, and a list of the positional arguments of its calls."""
    calls = []

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        calls.append(arguments)
        return function(*arguments)

    return wrapper, calls


def test_a_criterion_of_weights(shared: Any, add: Any) -> None:
    assert not is_known("space", "criterion", "mine")
    mine, calls = counted(lambda model, batches, generator: {n: w.detach() ** 4 for n, w in prunable(model).items()})
    add(CRITERIA, Criterion(mine, of_weight="w^4", of_channel="its sum", source="this test", cost="weights"))
    assert is_known("space", "criterion", "mine")
    assert "| `mine` | w^4 | its sum | none | this test |" in reference.criteria_table()
    for granularity in ("weight", "channel", "hybrid", "2:4"):
        before = len(calls)
        run(shared, criterion="mine", granularity=granularity)
        assert len(calls) > before
    masks: Any
    _, masks = pruning.prune(models.build("resnet8", 10), torch.zeros(1, 3, 32, 32), sparsity=0.5, criterion="mine")
    assert sum(int(mask.sum()) for mask in masks.values()) == sum(mask.numel() for mask in masks.values()) / 2


def test_a_criterion_of_which_nothing_is_told_is_in_the_table_all_the_same(add: Any) -> None:
    add(CRITERIA, Criterion(lambda model, batches, generator: {}))
    assert "| `mine` |" in reference.criteria_table()


def test_a_criterion_of_channels(shared: Any, add: Any) -> None:
    def last_first(graph: Any, model: Any, plan: Any, batches: Any, generator: Any) -> Any:
        return {group.name: -torch.arange(float(group.size)) for group in graph.groups}

    mine, calls = counted(last_first)
    add(CRITERIA, Criterion(channel=mine, of_channel="the place", source="this test", cost="weights"))
    assert Recipe(criterion="mine", sparsity=0.5).granularity == "channel"
    assert not refused_by_schema(content("space", "criterion", "mine"))
    with pytest.raises(ValueError, match="criterion mine values channels only; for weights there are magnitude_l1"):
        parse({"study": {"name": "x"}, "space": {"criterion": "mine", "granularity": "weight"}}, "x.yaml")
    row, _ = run(shared, criterion="mine")
    assert row["channel_sparsity"] > 0
    assert len(calls) == 1


def test_a_scope(shared: Any, add: Any) -> None:
    assert not is_known("space", "scope", "mine")
    weights, of_weights = counted(weight_scopes.layer_counts)
    channels, of_channels = counted(lambda graph, scores, sparsity_of, curves: scores**3)
    add(SCOPES, Scope(weights, channels, "as this test has it", "nowhere"))
    assert is_known("space", "scope", "mine")
    assert "| `mine` | as this test has it | nowhere |" in reference.scopes_table()
    run(shared, scope="mine")
    run(shared, scope="mine", granularity="channel")
    assert (len(of_weights), len(of_channels)) == (1, 1)


@pytest.mark.parametrize("granularity", ["channel", "hybrid"])
def test_a_scope_for_weights_alone_is_refused_for_channels_when_the_file_is_read(
    shared: Any, add: Any, granularity: Any
) -> None:
    add(SCOPES, Scope(weight_scopes.layer_counts, None, "as this test has it"))
    run(shared, scope="mine")
    space = {"scope": ["global", "mine"], "granularity": ["weight", granularity]}
    message = "scope mine is for weights only; for channels there are global, knapsack, layer, "
    with pytest.raises(ValueError, match=message):
        parse({"study": {"name": "x"}, "space": space}, "x.yaml")


def test_a_schedule(shared: Any, add: Any) -> None:
    def quadratic(progress: Any, final: Any, initial: Any = 0.0) -> Any:
        """Between equal steps and the cubic curve.

        Source: Mine 2000, arXiv:0000.00000
        """
        return final + (initial - final) * (1 - progress) ** 2

    assert not is_known("space", "schedule", "mine")
    add(SCHEDULES, quadratic)
    assert is_known("space", "schedule", "mine")
    line = "| `mine` | Between equal steps and the cubic curve | Mine 2000, arXiv:0000.00000 |"
    assert line in reference.schedules_table()
    row, history = run(shared, schedule="mine", steps=2, finetune_epochs=2)
    assert [line["sparsity"] for line in history] == pytest.approx([0.375, 0.5], abs=1e-3)
    assert (row["schedule"], row["steps"]) == ("mine", 2)


def test_an_optimiser(shared: Any, add: Any) -> None:
    assert not is_known("space", "optimizer", "mine")
    mine, calls = counted(lambda parameters, lr, weight_decay: torch.optim.RMSprop(parameters, lr))
    add(OPTIMIZERS, mine)
    assert is_known("space", "optimizer", "mine")
    run(shared, optimizer="mine", granularity="channel", schedule="iterative", steps=2, finetune_lr=1e-4)
    assert [lr for _, lr, _ in calls] == [1e-4] * 3  # the network's, and a new one for each smaller network


def test_a_learning_rate_schedule(shared: Any, add: Any) -> None:
    assert not is_known("space", "lr_schedule", "mine")
    mine, calls = counted(lambda progress: 1 - progress)
    add(LR_SCHEDULES, mine)
    assert is_known("space", "lr_schedule", "mine")
    run(shared, lr_schedule="mine", finetune_epochs=2)
    asked = [progress for (progress,) in calls]
    assert asked == sorted(asked)
    assert min(asked) >= 0
    assert max(asked) <= 1
    assert len(set(asked)) > 2


def tiny(num_classes: Any, in_shape: Any) -> Any:
    """For images of 8x8."""
    layers = nn.Conv2d(in_shape[0], 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, num_classes)
    return nn.Sequential(*layers)


def trained(section: Any) -> Any:
    """What a study of this baseline's trials share; trained in this process."""
    data = training.read_data(section, None)
    *_, baseline = training.make(section, data, CPU)
    assert isinstance(baseline, Baseline)
    return TrialContext(baseline, data, section)


def test_a_model(add: Any) -> None:
    assert not is_known("baseline", "model", "mine")
    add(models.MODELS, tiny)
    assert is_known("baseline", "model", "mine")
    file = read_study("quickstart", [*TINY, "baseline.model=mine", "baseline.epochs=1"])
    context = trained(file.baseline)
    assert (context.baseline.card["model"], context.baseline.card["params"]) == ("mine", 40 + 10 * (4 * 36 + 1))
    for granularity in ("weight", "channel"):
        run(context, granularity=granularity)


def stripes(options: Any) -> Any:
    """Images of lines that lie or stand."""
    side = options.image_size or 8

    def read(write: Any) -> Any:
        labels = np.arange(160) % 2
        images = np.zeros((160, side, side, 1), np.uint8)
        for number, label in enumerate(labels):
            place = number % side
            images[(number, place) if label else (number, slice(None), place)] = 255
        write(0, images)
        return labels, ["stands", "lies"]

    return Source((side, side, 1), 2, 120, 40, {"dataset": "mine", "side": side}, read)


def test_a_data_set(add: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_known("baseline", "dataset", "mine")
    add(DATASETS, stripes)
    assert is_known("baseline", "dataset", "mine")
    section = BaselineSection(model="resnet8", dataset="mine", image_size=9, epochs=1, batch_size=32, augment=False)
    context = trained(section)
    assert context.baseline.card["class_names"] == ["stands", "lies"]
    assert context.baseline.card["in_shape"] == [1, 9, 9]
    run(context)
    save_baseline(tmp_path / "baseline", context.baseline, {"dataset": "mine"})
    assert evaluate.main([str(tmp_path / "baseline")]) == 0, capsys.readouterr().err


def test_a_sampler(add: Any, tmp_path: Path) -> None:
    assert not is_known("study", "sampler", "mine")
    mine, calls = counted(lambda seed, study_seed: optuna.samplers.RandomSampler(seed=seed))
    add(SAMPLERS, mine)
    assert is_known("study", "sampler", "mine")
    queue = TrialQueue(tmp_path, parse({"study": {"name": "x", "sampler": "mine", "seed": 7}}, "x.yaml"))
    tickets = [queue.ask() for _ in range(3)]
    assert len({ticket.recipe["sparsity"] for ticket in tickets}) == 3
    assert calls == [(7, 7)]
    assert "mine" in searchers.searchers()  # of those that can be replayed


def test_an_export_format(shared: Any, add: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(network: Any, example: Any, about: Any, path: Any) -> None:
        torch.save({"network": network, **about}, path)

    def open_(path: Any) -> Any:
        return torch.load(path, weights_only=False)["network"]

    results = tmp_path / "quickstart"
    row = {
        "trial_id": "0000",
        "kind": "search",
        "state": "complete",
        "accuracy": 0.9,
        "sparsity": 0.5,
        "feasible": True,
    }
    results.mkdir()
    write_rows(results / "trials.csv", COLUMNS, [row])
    write_rows(results / "history.csv", HISTORY, [])
    write_study(results, read_study("quickstart", TINY).resolved(), {"schema_version": 1, "data_dir": None})
    models.save(results / "models" / "0000", shared.baseline.network(CPU), shared.baseline.card)
    command = [str(results), "--trial", "best", "--format", "mine"]
    with pytest.raises(SystemExit):
        export.main(command)
    assert "invalid choice: 'mine'" in capsys.readouterr().err
    add(FORMATS, Format(".mine", "my engine", (), write, open_))
    assert export.main(command) == 0, capsys.readouterr().err
    assert "my engine against PyTorch: same top-1 on all" in capsys.readouterr().out
    written = torch.load(results / "models" / "0000" / "quickstart_0000.mine", weights_only=False)
    assert written["trial_id"] == "0000"
    assert len(json.loads(written["class_names"])) == 10


def test_a_figure(add: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def mine(results: Any) -> Any:
        figure = Figure(figsize=(2, 2))
        figure.subplots().plot(results.trials["sparsity"], results.trials["accuracy"], ".")
        figure.suptitle("A figure of my own")
        return figure

    folder = results_folder.make(tmp_path / "study", trials=6, failed=0)
    for other in set(figures.FIGURES) - {"latency"}:  # which take seconds
        monkeypatch.delitem(figures.FIGURES, other)
    add(figures.FIGURES, mine)
    assert report.report(folder) == ["latency", "mine"]
    assert {path.name for path in (folder / "figures").iterdir()} >= {"mine.png", "mine.pdf"}
    assert "A figure of my own" in (folder / "report.html").read_text()


ROOT = Path(__file__).parents[1]
DICTS = {
    "CRITERIA": CRITERIA,
    "SCOPES": SCOPES,
    "SCHEDULES": SCHEDULES,
    "MODELS": models.MODELS,
    "DATASETS": DATASETS,
    "SAMPLERS": SAMPLERS,
    "LR_SCHEDULES": LR_SCHEDULES,
    "OPTIMIZERS": OPTIMIZERS,
    "FORMATS": FORMATS,
    "FIGURES": figures.FIGURES,
}


def test_the_page_on_adding_names_every_dict_and_the_file_that_holds_it() -> None:
    text = (ROOT / "docs" / "how_to_add.md").read_text()
    told = dict(re.findall(r"^\|.*\| `([A-Z_]+)` \| \[[\w/.]+\]\(\.\./([\w/.]+)\.py\) \|$", text, re.MULTILINE))
    found = {name: getattr(importlib.import_module(path.replace("/", ".")), name) for name, path in told.items()}
    assert list(found) == list(DICTS)
    assert all(found[name] is DICTS[name] for name in DICTS)


@pytest.mark.parametrize("name", DICTS)
def test_each_dict_is_written_in_one_place(name: Any) -> None:
    """A second dict or list of that name would be a second line to add."""
    sources = [path for room in ("study", "pruning", "models", "analysis") for path in (ROOT / room).rglob("*.py")]
    written = [path for path in sources if re.search(rf"^{name}\b.* = ", path.read_text(), re.MULTILINE)]
    assert len(written) == 1
