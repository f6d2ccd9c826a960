"""What the driver of a study does, from the study file to the report."""
