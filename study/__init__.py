"""The engine: a study file in, a results folder out."""
