"""What keeps the baseline's accuracies from being taken at their word, each in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any


def at_chance(measures: Mapping[str, Any]) -> str:
    """A sentence (without its full stop) if the baseline is no better than always naming the largest class; else "".

    It has to be better by two standard errors. measures: of the baseline, as its card and study.yaml hold them;
    accuracy and largest_class (fractions of the validation images), and validation_images. "" if one is not known.
    """
    accuracy, share, images = (measures.get(key) for key in ("accuracy", "largest_class", "validation_images"))
    if accuracy is None or share is None or not images:
        return ""
    if accuracy > share + 2 * sqrt(share * (1 - share) / images):
        return ""
    return (
        f"the baseline is at chance: its accuracy on {images:,} validation images is {100 * accuracy:.1f} %, and "
        f"always naming the largest class gives {100 * share:.1f} %, so what pruning costs or gains cannot be told"
    )


def flattered(section: Mapping[str, Any], measures: Mapping[str, Any]) -> str:
    """A sentence (without its full stop) if the weights may have been trained on the validation images; else "".

    section: `baseline` of the study file. measures: as for `at_chance`; `validation` is "folder" where the validation
    images have a folder of their own, otherwise they were cut from the training images.
    """
    key = next((key for key in ("checkpoint", "init_from") if section.get(key)), None)
    if key is None or measures.get("validation", "split") != "split":
        return ""
    return (
        f"the weights of baseline.{key} may have been trained on the validation images, which are cut from the "
        "training images, so validation accuracies may flatter the baseline; the test accuracies are the honest ones, "
        "and a folder val/ of images that it has not seen is the remedy"
    )


def sentence(text: str) -> str:
    """The text with a capital and a full stop; "" stays as it is."""
    return text and f"{text[0].upper()}{text[1:]}."
