"""Which objective figures are drawn against, and in what unit."""

from __future__ import annotations

from analysis.results_folder import Results

UNITS = {  # column -> (name, unit, what one unit of the axis is)
    "sparsity": ("sparsity", "%", 0.01),
    "accuracy": ("validation accuracy", "%", 0.01),
    "macs": ("MACs", "millions", 1e6),
    "params": ("parameters", "millions", 1e6),
    "size_bytes": ("size", "MB", 1e6),
    "latency_ms": ("latency", "ms", 1.0),
}


def abscissa(results: Results) -> str:
    """The objective that the front is drawn against: the first that is not accuracy, else sparsity."""
    return next((name for name in results.objectives if name != "accuracy"), "sparsity")


def unit_of(column: str) -> tuple[str, str, float]:
    """What an axis calls a column, its unit there, and how much of the column makes one such unit."""
    return UNITS.get(column, (column.replace("_", " "), "1", 1.0))
