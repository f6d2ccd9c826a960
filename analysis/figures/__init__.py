"""Figures: for each a function that computes what is drawn, and one that draws it; FIGURES has all of them by name.

Drawn are test accuracies, which select nothing; the front is chosen on validation accuracy. Every figure says in
words what is missing when a study is too small for it.
"""

from analysis.figures.fronts import accuracy_by, front
from analysis.figures.registry import FIGURES, applicable

__all__ = ["FIGURES", "accuracy_by", "applicable", "front"]
