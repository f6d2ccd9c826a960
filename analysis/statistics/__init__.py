"""Numbers of a study: fronts, means and intervals, what the runs of a recipe are worth."""
