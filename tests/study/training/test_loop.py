"""Training, evaluation and recalibration, against torch's own and closed forms."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from study.data import splits
from study.data.transforms import Augmentation
from study.training import device_data, evaluation, loop, optimisers, precision

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("precision")
ROUNDING = {"fp32": 1e-5, "bf16": 2**-8}  # of numbers about 1, after a layer


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return splits.load("digits", cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def images(digits: Any, device: torch.device) -> Any:
    return device_data.on_device(digits, device)


def first(count: int, images: Any) -> torch.Tensor:
    """The first rows of a data set, on its device."""
    return torch.arange(count, device=images.device)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_the_data_reach_the_cpu_without_a_copy(digits: Any) -> None:
    images = device_data.on_device(digits, CPU)
    assert images.images.data_ptr() == digits.images.__array_interface__["data"][0]


def test_grey_images_are_not_taken_for_channels_last(images: Any) -> None:
    """One channel is contiguous with either strides; oneDNN's channels-last kernels crash (see `memory_format`)."""
    inputs, _ = images.batch(first(4, images))
    outputs = nn.Conv2d(1, 8, 3).to(inputs.device)(inputs)
    assert inputs.shape[1] == 1
    assert outputs.is_contiguous(memory_format=precision.memory_format(inputs.device))


def test_batches_cover_an_epoch_once_and_repeat_by_seed(images: Any) -> None:
    rows = first(100, images)
    seen = [batch for batch, _ in zip(device_data.endless_batches(images, rows, 20, 3), range(10), strict=False)]
    again = device_data.endless_batches(images, rows, 20, 3)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(seen, again, strict=False))
    one, other = (torch.cat([labels for _, labels in seen[i : i + 5]]) for i in (0, 5))
    assert torch.equal(one.sort().values, images.labels[:100].sort().values)
    assert not torch.equal(one, other)


def test_a_rest_that_fills_no_batch_is_left_out_unless_it_is_all(images: Any) -> None:
    assert device_data.steps_per_epoch(99, 20) == 4
    assert device_data.steps_per_epoch(7, 20) == 1
    inputs, _ = next(device_data.endless_batches(images, first(7, images), 20, 0))
    assert inputs.shape == (7, 1, 8, 8)


def test_one_step_of_sgd_is_the_gradient_step_worked_by_hand(images: Any, precision: Any) -> None:
    model = linear().to(images.device)
    inputs, labels = images.batch(first(32, images))
    weight = model[1].weight.detach().clone()
    share = torch.softmax(inputs.flatten(1) @ weight.T + model[1].bias.detach(), 1)
    gradient = (share - nn.functional.one_hot(labels, 10)).T @ inputs.flatten(1) / 32
    loss = loop.train(model, [(inputs, labels)], torch.optim.SGD(model.parameters(), 1.0), [0.1])
    assert torch.allclose(model[1].weight, weight - 0.1 * gradient, atol=0.1 * ROUNDING[precision])
    assert loss == pytest.approx(-share[range(32), labels].log().mean().item(), rel=10 * ROUNDING[precision])


class Given(nn.Module):
    """Gives these logits for each image, whatever it shows; remembers what it was shown, and in which mode."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.seen: list[tuple[bool, torch.Tensor]] = []

    def forward(self, images: Any) -> Any:
        self.seen.append((self.training, images))
        return self.logits.expand(len(images), -1)


LN2, LN3 = math.log(2), math.log(3)


@pytest.mark.parametrize(
    ("weight", "temperature", "label_smoothing", "expected"),
    [
        # Student (1/2, 1/2), teacher (1/4, 3/4) at temperature 1: KL = 1/4 ln(1/2) + 3/4 ln(3/2) = 3/4 ln 3 - ln 2.
        (1.0, 1.0, 0.0, 0.75 * LN3 - LN2),
        (0.3, 1.0, 0.0, 0.7 * LN2 + 0.3 * (0.75 * LN3 - LN2)),
        # At temperature 1/2 the teacher's logits are (0, 2 ln 3): it says (1/10, 9/10).
        (1.0, 0.5, 0.0, 0.25 * (0.1 * math.log(0.2) + 0.9 * math.log(1.8))),
        # Smoothed targets are (1/10, 9/10), for which a student of two equal logits still has the loss ln 2.
        (0.5, 1.0, 0.2, 0.5 * LN2 + 0.5 * (0.75 * LN3 - LN2)),
        (0.0, 4.0, 0.0, LN2),
    ],
)
def test_distillation_is_the_loss_worked_by_hand(
    weight: float, temperature: float, label_smoothing: float, expected: float
) -> None:
    student, teacher = Given(0.0, 0.0), Given(0.0, LN3).eval()
    batch = torch.rand(3, 1, 2, 2), torch.ones(3, dtype=torch.long)
    loss = loop.train(
        student, [batch], torch.optim.SGD(student.parameters(), 0.1), [0.1],
        label_smoothing=label_smoothing, distillation=loop.Distillation(teacher, weight, temperature),
    )  # fmt: skip
    assert loss == pytest.approx(expected, rel=1e-6)
    ((student_trains, shown),), ((teacher_trains, same),) = student.seen, teacher.seen
    assert (student_trains, teacher_trains) == (True, False)
    assert shown is same
    assert teacher.logits.grad is None


def test_distillation_is_torchs_own_divergence_and_moves_the_student_only() -> None:
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(16, 5)) for _ in range(2))
    inputs, labels = torch.randn(8, 1, 4, 4), torch.randint(5, (8,))
    before = [parameter.clone() for parameter in teacher.parameters()]
    logits = student(inputs)
    entropy = nn.CrossEntropyLoss(label_smoothing=0.1)(logits, labels)
    loss = loop.Distillation(teacher, 0.6, 3.0).mixed(entropy, logits, inputs)
    target, guess = (torch.softmax(net(inputs) / 3, 1) for net in (teacher, student))
    assert loss.item() == pytest.approx(
        0.4 * entropy.item() + 0.6 * 9 * nn.KLDivLoss(reduction="batchmean")(guess.log(), target).item(), rel=1e-5
    )
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert student[1].weight.grad.abs().sum() > 0


def test_train_takes_one_batch_per_learning_rate_and_no_more(images: Any) -> None:
    batches = iter([images.batch(first(8, images)) for _ in range(5)])
    model = linear().to(images.device)
    calls: list[int] = []
    loop.train(
        model, batches, optimisers.sgd(model.parameters(), 0.1, 0), [0.1] * 3, after_step=lambda: calls.append(1)
    )
    assert len(list(batches)) == 2
    assert len(calls) == 3


def test_divergence_is_an_error(images: Any) -> None:
    model = linear().to(images.device)
    batches = [images.batch(first(8, images))] * 50
    with pytest.raises(FloatingPointError, match="diverged"):
        loop.train(model, batches, optimisers.sgd(model.parameters(), 0.1, 0), [float("inf")] * 50)


def test_evaluate_counts_right_answers(digits: Any, images: Any, device: torch.device) -> None:
    class Oracle(nn.Module):
        def forward(self, inputs: Any) -> Any:
            return nn.functional.one_hot(images.labels[: len(inputs)], 10).float()

    assert evaluation.evaluate(Oracle(), images, first(50, images)) == 1.0
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(constant[1].weight)
    constant[1].bias.data = torch.eye(10)[3]
    constant.to(device)
    expected = float((digits.labels == 3).mean())
    assert evaluation.evaluate(constant, images, first(len(digits.labels), images)) == pytest.approx(expected)


def test_recalibrated_statistics_are_those_of_the_data(images: Any, precision: Any, device: torch.device) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5)).to(device)
    rows = first(256, images)
    evaluation.recalibrate(model, images, rows, batch_size=64)
    with torch.no_grad():
        outputs = model[0](images.batch(rows)[0])
    assert torch.allclose(model[1].running_mean, outputs.mean((0, 2, 3)), atol=ROUNDING[precision])
    # The average of the batches' variances: what is between batches is small here, but not nothing.
    assert torch.allclose(model[1].running_var, outputs.var((0, 2, 3)), rtol=0.05)
    assert model[1].momentum == 0.3
    assert not model.training


def test_recalibration_sees_what_training_saw(images: Any) -> None:
    """Augmented, a norm right at the input has the statistics of padded crops: darker, since padding is black."""
    model = nn.Sequential(nn.BatchNorm2d(1)).to(images.device)
    rows, images = first(256, images), images._replace(augmentation=Augmentation(pad_crop=True, flip=True))
    evaluation.recalibrate(model, images, rows)
    plain = model[0].running_mean.item()
    evaluation.recalibrate(model, images, rows, torch.Generator().manual_seed(0))
    augmented = images.batch(rows, torch.Generator().manual_seed(0))[0]
    assert model[0].running_mean.item() == pytest.approx(augmented.mean().item(), abs=0.01)
    assert model[0].running_mean.item() < plain


def test_learning_rates_agree_with_torch() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    for step in range(20):
        assert optimisers.cosine(step / 20) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", optimisers.LR_SCHEDULES)
def test_learning_rates_lie_between_nothing_and_all(name: Any) -> None:
    factors = [optimisers.LR_SCHEDULES[name](p) for p in np.linspace(0, 1, 101)]
    assert max(factors) == pytest.approx(1)
    assert min(factors) >= 0


@pytest.mark.parametrize("name", optimisers.OPTIMIZERS)
def test_every_optimiser_learns(images: Any, name: Any) -> None:
    torch.manual_seed(0)
    model = linear().to(images.device)
    optimizer = optimisers.OPTIMIZERS[name](model.parameters(), 0.01, 5e-4)
    batches = device_data.endless_batches(images, first(1000, images), 100, 0)
    loop.train(model, batches, optimizer, [0.01] * 60)
    assert evaluation.evaluate(model, images, first(1000, images)) > 0.8


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 8), (5, 24), (15, 23)])
def test_odd_channel_counts_train_where_a_kernel_of_onednn_crashes(
    inputs: Any, outputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the format that `placed` chooses for fp32; in channels last some of these end the process on AVX2."""
    monkeypatch.setenv("STUDY_PRECISION", "fp32")
    model = precision.placed(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), CPU)
    images = torch.randn(128, inputs, 16, 16).contiguous(memory_format=precision.memory_format(CPU))
    model(images).sum().backward()
    expected = images[..., ::2, ::2].sum((0, 2, 3)).expand(outputs, -1)
    assert torch.allclose(model.weight.grad[..., 0, 0], expected, rtol=1e-3, atol=1e-2)


def test_slimming_adds_the_subgradient_of_the_sum_of_gammas() -> None:
    """One step of plain SGD: gamma - lr * (dL/dgamma + strength * sign(gamma)), here with dL/dgamma = 3."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1), nn.BatchNorm1d(2, affine=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([2.0, -1.0, 0.0]))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    loop.slimming(model, 0.5)()
    assert model[0].weight.grad.tolist() == [3.5, 2.5, 3.0]
    assert (model[0].bias.grad == 3).all()
    assert (model[1].weight.grad == 3).all()


def test_slimmed_baselines_have_smaller_gammas(images: Any) -> None:
    def gammas(strength: Any) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
        model.to(images.device)
        batches = device_data.endless_batches(images, first(200, images), 50, 0)
        model(next(batches)[0])
        thin = loop.slimming(model, strength)
        loop.train(model, batches, optimisers.sgd(model.parameters(), 0.1, 0.0), [0.1] * 30, before_step=thin)
        return model[1].weight.abs().sum().item()

    assert gammas(0.02) < 0.8 * gammas(0.0)


def test_a_gpus_fp32_is_not_rounded_and_its_sums_have_one_order() -> None:
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.deterministic


@pytest.mark.parametrize("bf16", [True, False])
def test_bf16_is_used_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch, bf16: Any) -> None:
    monkeypatch.delenv("STUDY_PRECISION")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert precision.gains_by_bf16(CPU) == bf16
    layout = torch.channels_last if bf16 else torch.contiguous_format
    assert precision.memory_format(CPU) is layout
    with precision.precision(CPU):
        assert (nn.Linear(2, 2)(torch.ones(1, 2)).dtype is torch.bfloat16) == bf16


def test_a_precision_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_PRECISION", "fp8")
    with pytest.raises(ValueError, match="STUDY_PRECISION=fp8: choices: fp32, bf16"):
        precision.gains_by_bf16(CPU)
