"""Baselines that start from weights somebody gives: what is taken, what is new, what is trained, what is kept."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import models
from study.baseline import disk_cache, normalisation, training
from study.baseline.checkpoint import start
from study.baseline.network import Baseline
from study.config import BaselineSection, parse
from study.data.splits import Data
from study.training import device_data, evaluation

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
DIGITS: dict[str, Any] = {"model": "resnet8", "dataset": "digits", "train_samples": 64, "batch_size": 32, "lr": 0.01}
SMALL = """
import itertools, pathlib, torch
from torch import nn

calls = itertools.count()

def factory(classes, shape):
    model = nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, classes))
    model.load_state_dict(torch.load(pathlib.Path(__file__).with_name("own.pt"), weights_only=True))
    return model

def restless(classes, shape):
    model = nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.Flatten(), nn.Linear(144, classes))
    torch.nn.init.constant_(model[0].bias, next(calls))
    return model
"""


def section(**keys: Any) -> BaselineSection:
    return BaselineSection(**{**DIGITS, **keys})


def network(classes: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("resnet8", classes, SHAPE)


def given(folder: Path, state: dict[str, Any], name: str = "given.pt") -> str:
    torch.save(state, folder / name)
    return str(folder / name)


@pytest.fixture(scope="module")
def data() -> Data:
    return training.read_data(section(), None)


def made(chosen: BaselineSection, data: Data) -> Baseline:
    return [item for item in training.make(chosen, data, CPU) if isinstance(item, Baseline)][0]


def test_a_head_of_other_classes_is_new_and_the_rest_is_what_torch_would_load(tmp_path: Path) -> None:
    trained, model = network(classes=7, seed=1).state_dict(), network()
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    begun = start(section(init_from=given(tmp_path, {"model": trained})), model, 10, SHAPE)
    body = {name: tensor for name, tensor in trained.items() if not name.startswith("fc.")}
    report = network().load_state_dict(body, strict=False)
    assert begun.new == set(report.missing_keys) == {"fc.weight", "fc.bias"}
    assert begun.about == f"init_from: {tmp_path / 'given.pt'}: took `model`, new: `fc`"
    assert all(torch.equal(begun.state[name], body.get(name, fresh[name])) for name in fresh)


def test_a_head_of_another_name_is_left_out(tmp_path: Path) -> None:
    trained = {name.replace("fc.", "linear."): tensor for name, tensor in network(seed=1).state_dict().items()}
    begun = start(section(init_from=given(tmp_path, trained)), network(), 10, SHAPE)
    assert begun.about.endswith("left out 2 that the network lacks (`linear.weight`), new: `fc`")


def test_layers_other_than_the_head_are_new_only_if_asked_for(tmp_path: Path) -> None:
    trained = dict(network(seed=1).state_dict())
    trained["layer1.0.conv1.weight"] = torch.zeros(16, 16, 5, 5)
    path = given(tmp_path, trained)
    with pytest.raises(
        ValueError, match=r"'layer1.0.conv1.weight' is \(16, 16, 5, 5\), the network's \(16, 16, 3, 3\)"
    ):
        start(section(init_from=path), network(), 10, SHAPE)
    begun = start(section(init_from=path, init_missing="any"), network(), 10, SHAPE)
    assert begun.new == {"layer1.0.conv1.weight"}
    with pytest.raises(ValueError, match="shares no tensor"):
        start(section(init_from=given(tmp_path, {"a": torch.ones(1)}), init_missing="any"), network(), 10, SHAPE)


@pytest.mark.parametrize(
    ("keys", "classes", "reason"),
    [({"epochs": 0}, 7, "'fc.bias' is new, so it needs training"), ({"freeze": 1}, 10, "leaves nothing to train")],
)
def test_settings_that_do_not_go_with_the_weights_are_refused(
    tmp_path: Path, keys: Any, classes: int, reason: Any
) -> None:
    path = given(tmp_path, dict(network(classes).state_dict()))
    with pytest.raises(ValueError, match=f"baseline.init_from: {path}: .*{reason}"):
        start(section(init_from=path, **keys), network(), 10, SHAPE)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"checkpoint": "a", "init_from": "b"}, "checkpoint and init_from exclude each other"),
        ({"init_from": "b", "weights": "DEFAULT", "model": "timm/a"}, "init_from and weights exclude"),
        ({"weights": "DEFAULT"}, "weights: are of networks of packages"),
        ({"freeze": 1}, "freeze: goes with init_from or weights"),
        ({"init_from": "b", "freeze": 31}, "freeze: 31 epochs of 30"),
        ({"mean": [0.5]}, "mean and std: give both"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "mean and std: give both"),
        ({"mean": [127.0], "std": [1.0]}, "[.]mean.0: .*less than or equal to 1"),
        ({"model": "keras/resnet18"}, "unknown model 'keras/resnet18'; choices: .*torchvision/name, timm/name"),
    ],
)
def test_keys_that_exclude_each_other_are_refused(keys: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"mine.yaml: baseline.*{reason}"):
        parse({"study": {"name": "a"}, "baseline": keys}, "mine.yaml")


def test_only_what_is_new_is_trained_at_first(tmp_path: Path, data: Data) -> None:
    path = given(tmp_path, dict(network(7, seed=1).state_dict()))
    frozen = made(section(init_from=path, epochs=1, freeze=1), data).state
    before = network(7, seed=1).state_dict()
    body = [name for name in frozen if not name.startswith("fc.")]
    assert all(torch.equal(torch.tensor(frozen[name]), before[name]) for name in body)
    after = made(section(init_from=path, epochs=2, freeze=1), data).state
    trained = [name for name in body if not name.endswith("num_batches_tracked")]
    assert not any(torch.equal(torch.tensor(after[name]), before[name]) for name in trained)


def test_the_given_mean_and_std_are_those_of_the_network_and_its_card(data: Data) -> None:
    chosen = section(epochs=0, mean=[0.25], std=[0.5])
    own = training.read_data(chosen, None)
    images = device_data.on_device(own, CPU)
    assert torch.allclose(
        images.batch(torch.tensor([3]))[0], (torch.tensor(data.images[3]) / 255 - 0.25).permute(2, 0, 1)[None] / 0.5
    )
    card = made(chosen, own).card
    assert (card["mean"], card["std"]) == ([0.25], [0.5])
    with pytest.raises(ValueError, match=r"baseline.mean: 3 numbers, but the images have 1 channel"):
        training.check(section(mean=[0.5] * 3, std=[0.5] * 3), 10, SHAPE)


def test_it_is_said_when_a_usual_normalisation_is_much_better(data: Data) -> None:
    """The network is right for images in [-1, 1] alone: it counts on the sign of its inputs."""
    placed = device_data.place(data, CPU)
    bright = placed.images.images.float().mean((1, 2, 3)) > 127.5
    images = placed.images._replace(
        labels=bright.long(), images=torch.where(bright[:, None, None, None], 200, 100).expand(-1, 8, 8, 1).byte()
    )

    class Sign(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            mean = inputs.mean((1, 2, 3))
            right = (mean.abs() < 1) & (mean > 0)
            return torch.stack([~right, right], 1).float()

    images = images._replace(mean=torch.tensor([0.9]), std=torch.tensor([0.5]), labels=images.labels * 0 + 1)
    images = images._replace(images=torch.full_like(images.images, 200))
    own = evaluation.evaluate(Sign(), images, placed.validation)
    assert own == 0
    said = normalisation.advice(Sign(), images, placed.validation)
    assert "validation accuracy 0.0000 with this" in said
    assert "1.0000 with [-1, 1]: --set baseline.mean=[0.5] --set baseline.std=[0.5]" in said
    right = images._replace(mean=torch.tensor([0.5]))
    assert normalisation.advice(Sign(), right, placed.validation) == ""


def test_a_baseline_is_kept_for_the_weights_it_starts_from(tmp_path: Path, data: Data) -> None:
    def key(**keys: Any) -> str:
        return disk_cache.key(section(**keys), data)

    path = given(tmp_path, dict(network().state_dict()))
    keys = [key(), key(init_from=path), key(mean=[0.5], std=[0.5]), key(init_from=path, freeze=1)]
    keys += [key(model="torchvision/resnet18"), key(model="torchvision/resnet18", weights="DEFAULT")]
    given(tmp_path, dict(network(seed=1).state_dict()))
    keys.append(key(init_from=path))
    assert len(set(keys)) == len(keys)


def test_a_file_that_a_users_function_reads_counts(tmp_path: Path, data: Data) -> None:
    (tmp_path / "mine.py").write_text(SMALL)
    torch.manual_seed(0)
    own = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    chosen = section(model=f"{tmp_path}/mine.py:factory")
    keys = []
    for value in (1.0, 2.0, 1.0):
        nn.init.constant_(own[3].bias, value)
        given(tmp_path, own.state_dict(), "own.pt")
        keys.append(disk_cache.key(chosen, data))
    assert keys[0] == keys[2] != keys[1]
    restless = section(model=f"{tmp_path}/mine.py:restless")
    assert disk_cache.key(restless, data) == disk_cache.key(restless, data)


def test_a_saved_network_of_a_package_needs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.build("torchvision/squeezenet1_1", 2, (3, 32, 32))
    card = {"model": "torchvision/squeezenet1_1", "num_classes": 2, "in_shape": [3, 32, 32], "class_names": ["a", "b"]}
    models.save(tmp_path, model, {**card, "mean": [0.5] * 3, "std": [0.5] * 3})
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", None)
    found = models.load(tmp_path)[0].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_of_a_package_start_a_baseline_with_a_new_head(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = models.build("torchvision/resnet18", 1000, (3, 32, 32)).state_dict()
    monkeypatch.setattr(models, "pretrained", lambda *_: trained)
    chosen = section(model="torchvision/resnet18", weights="DEFAULT")
    model, about = training.check(chosen, 10, (3, 32, 32))
    assert about == "weights: DEFAULT of torchvision/resnet18: new: `fc`"
    report = model.load_state_dict({n: t for n, t in trained.items() if not n.startswith("fc.")}, strict=False)
    assert report.missing_keys == ["fc.weight", "fc.bias"]
    assert torch.equal(model.get_parameter("conv1.weight"), trained["conv1.weight"])


def test_a_network_at_chance_gets_one_warning_and_its_card_says_what_chance_is(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    def warnings(chosen: BaselineSection, **measured: float) -> list[str]:
        baseline = made(section(epochs=0), data)
        known = Baseline(baseline.state, baseline.card | measured)
        card = disk_cache.obtain(chosen, data, lambda: iter([known])).card
        shares = Counter(data.labels[data.validation].tolist())
        assert card["validation_images"] == sum(shares.values()) == 144
        assert card["largest_class"] == max(shares.values()) / 144
        return [line for line in capsys.readouterr().out.splitlines() if "at chance" in line]

    (line,) = warnings(section(epochs=0))
    assert line.startswith("warning: the baseline is at chance: ")
    assert warnings(section(epochs=0, lr=0.02), accuracy=0.5) == []


def test_long_training_says_how_much_of_it_is_left(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    epochs = [{"epoch": n, "train_loss": 1.0, "accuracy": 0.5, "seconds": seconds} for n, seconds in ((1, 90), (2, 30))]
    disk_cache.obtain(section(epochs=3, lr=0.03), data, lambda: iter([*epochs, made(section(epochs=0), data)]))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  epoch")]
    assert [line.partition("(")[2] for line in lines] == ["90.0 s), 3 min left", "30.0 s)"]


def test_what_a_checkpoint_may_have_seen_is_said_once(
    tmp_path: Path, data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = section(checkpoint=given(tmp_path, dict(network().state_dict())))
    disk_cache.obtain(chosen, data, lambda: training.make(chosen, data, CPU))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert "baseline.checkpoint may have been trained on the validation images" in line
    assert "val/" in line
