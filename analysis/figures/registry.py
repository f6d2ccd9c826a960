"""Registry of figures: name -> drawing function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from analysis.comparisons import bits, criteria, importance, ranks
from analysis.comparisons.effects import importance_data, rates_data
from analysis.figures import costs, life, progress, ratios, timeline
from analysis.figures.fronts import AXES, accuracy_by, compared_data, front
from analysis.figures.speedup import latency
from analysis.layers import sensitivity, weights
from analysis.layers.kept import layers
from analysis.results_folder import Results, candidates, scans, scores_of


def applicable(results: Results) -> list[str]:
    """The names of FIGURES to draw for this study.

    Figures in REQUIRED_DATA are drawn only if they have data. The others are always drawn, with a sentence instead of
    a plot if data are missing, except for a study that is only a sensitivity scan.
    """
    is_search = len(candidates(results.trials)) or scans(results).empty
    return [name for name in FIGURES if (len(REQUIRED_DATA[name](results)) if name in REQUIRED_DATA else is_search)]


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "front": front,
    "hypervolume": progress.hypervolume,
    "search": progress.search,
    "attainment": progress.attainment,
    "timeline": timeline.timeline,
    "ratios": ratios.ratios,
    "criteria": criteria.accuracies,
    "criteria_ranks": ranks.figure,
    **{f"accuracy_by_{axis}": partial(accuracy_by, axis=axis) for axis in AXES},
    "costs": costs.costs,
    "quantization": bits.quantization,
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
REQUIRED_DATA: dict[str, Callable[[Results], pd.DataFrame]] = {  # figure -> its data; not drawn if empty
    "search": progress.search_data,
    "attainment": progress.attainment_data,
    "timeline": timeline.timeline_data,
    "ratios": ratios.ratios_data,
    "criteria": criteria.criteria_data,
    "criteria_ranks": ranks.ranks_data,
    "costs": costs.costs_data,
    "quantization": bits.quantization_data,
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
