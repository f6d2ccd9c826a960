"""The objective on the figures' x axis, and axis names and units."""

from __future__ import annotations

from analysis.results_folder import Results

UNITS = {  # column -> (name, unit, column values per unit)
    "sparsity": ("sparsity", "%", 0.01),
    "accuracy": ("validation accuracy", "%", 0.01),
    "macs": ("MACs", "millions", 1e6),
    "params": ("parameters", "millions", 1e6),
    "size_bytes": ("size", "MB", 1e6),
    "latency_ms": ("latency", "ms", 1.0),
}


def abscissa(results: Results) -> str:
    """The objective on the x axis: the first that is not accuracy, or sparsity if there is none."""
    return next((name for name in results.objectives if name != "accuracy"), "sparsity")


def unit_of(column: str) -> tuple[str, str, float]:
    """Axis name and unit of a column, and the divisor that converts the column's values to that unit."""
    return UNITS.get(column, (column.replace("_", " "), "1", 1.0))
