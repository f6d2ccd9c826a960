"""Figures: for each, one function that computes the data and one that draws it; FIGURES lists them by name.

Figures show test accuracy, which is not used for any selection; the front is selected by validation accuracy. If a
study lacks the data for a figure, the figure says so in a sentence.
"""

from analysis.figures.fronts import accuracy_by, front
from analysis.figures.registry import FIGURES, applicable

__all__ = ["FIGURES", "accuracy_by", "applicable", "front"]
