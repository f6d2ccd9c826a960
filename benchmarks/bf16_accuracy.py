"""Does training in bf16 cost accuracy? The same baselines in bf16 autocast and in fp32, over several seeds.

    python -m benchmarks.bf16_accuracy --seeds 5
    python -m benchmarks.bf16_accuracy --dataset imagefolder --data-dir IMAGES --image-size 32 --model resnet20

Without bf16 in hardware the comparison is slow but equally valid: the rounding is the same.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from study.baseline import network, training
from study.config import BaselineSection
from study.training import precision


def test_accuracy(section: BaselineSection, data_dir: str | None, seed: int, bf16: bool) -> float:
    """Test accuracy of a trained baseline.

    Args:
      section: of the baseline.
      data_dir: the images' folder, or None.
      seed: of the training.
      bf16: train in bf16 autocast instead of fp32.
    """
    precision.gains_by_bf16 = lambda device: bf16
    training.SEED = seed
    data = training.read_data(section, data_dir)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    *_, baseline = training.make(section, data, device)
    assert isinstance(baseline, network.Baseline)
    return float(baseline.card["test_accuracy"])


def main() -> None:
    """Print the test accuracy of every run, and the mean paired difference with its standard error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--train-samples", type=int)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    section = BaselineSection(
        model=args.model,
        dataset=args.dataset,
        image_size=args.image_size,
        train_samples=args.train_samples,
        epochs=args.epochs,
        augment=args.dataset != "digits",
    )
    differences = []
    for seed in range(args.seeds):
        fp32, bf16 = (test_accuracy(section, args.data_dir, seed, half) for half in (False, True))
        differences.append(bf16 - fp32)
        print(f"seed {seed}: fp32 {fp32:.4f}, bf16 {bf16:.4f}", flush=True)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    print(f"bf16 - fp32: {100 * statistics.mean(differences):+.2f} points, standard error {100 * error:.2f}")


if __name__ == "__main__":
    main()
