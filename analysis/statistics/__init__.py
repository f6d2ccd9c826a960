"""Statistics of a study: Pareto fronts, means and intervals, averages over the runs of a recipe."""
