"""The study file as validated, frozen models: its sections, the recipe and the space of recipes."""

from study.config.fields import RefusedError
from study.config.recipe import EACH, Recipe
from study.config.sections import BaselineSection, Resources
from study.config.study_file import StudyFile, parse, read_study

__all__ = ["EACH", "BaselineSection", "Recipe", "RefusedError", "Resources", "StudyFile", "parse", "read_study"]
