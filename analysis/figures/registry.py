"""Figures by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from analysis.comparisons import criteria, importance, ranks
from analysis.comparisons.effects import importance_data, rates_data
from analysis.figures import costs, life, progress, ratios
from analysis.figures.fronts import AXES, accuracy_by, compared_data, front
from analysis.figures.speedup import latency
from analysis.layers import sensitivity, weights
from analysis.layers.kept import layers
from analysis.results_folder import Results, candidates, scans, scores_of


def applicable(results: Results) -> list[str]:
    """The names of FIGURES that this study has something for, or that say in words what it has not come to yet.

    Those of one question alone (NEEDS) only where there are data for them; of a mere scan, whose networks are no
    candidates, nothing but those.
    """
    judged = len(candidates(results.trials)) or scans(results).empty
    return [name for name in FIGURES if (len(NEEDS[name](results)) if name in NEEDS else judged)]


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "front": front,
    "hypervolume": progress.hypervolume,
    "attainment": progress.attainment,
    "ratios": ratios.ratios,
    "criteria": criteria.accuracies,
    "criteria_ranks": ranks.figure,
    **{f"accuracy_by_{axis}": partial(accuracy_by, axis=axis) for axis in AXES},
    "costs": costs.costs,
    "importance": importance.importance,
    "rates": importance.rates,
    "recipes": costs.recipes,
    "life": life.life,
    "pruned": life.pruned,
    "layers": layers,
    "sensitivity_heatmap": sensitivity.heatmap,
    "sensitivity_lines": sensitivity.lines,
    "layer_maps": weights.maps,
    "weight_histograms": weights.histograms,
    "latency": latency,
}
NEEDS: dict[str, Callable[[Results], pd.DataFrame]] = {  # what the figures of one question alone are drawn of
    "attainment": progress.attainment_data,
    "ratios": ratios.ratios_data,
    "criteria": criteria.criteria_data,
    "criteria_ranks": ranks.ranks_data,
    "costs": costs.costs_data,
    "importance": importance_data,
    "rates": rates_data,
    "recipes": costs.recipes_data,
    "pruned": life.pruned_data,
    **{f"accuracy_by_{axis}": partial(compared_data, axis=axis) for axis in AXES if axis != "schedule"},
    "sensitivity_heatmap": sensitivity.sensitivity_data,
    "sensitivity_lines": sensitivity.sensitivity_data,
    "layer_maps": scores_of,
    "weight_histograms": weights.histogram_data,
}
