"""Build networks by name; save, load and export them."""

from models.saved import load, save
from models.zoo import MODELS, build, imported

__all__ = ["MODELS", "build", "imported", "load", "save"]
