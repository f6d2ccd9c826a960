"""The HTML report: its answer, sections and interactive plot, and the server that shows it while a study runs."""
