"""The driver process of a study, from the study file to the report."""
