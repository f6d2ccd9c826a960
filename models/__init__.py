"""Networks by name, and networks on disk."""

from models.saved import load, save
from models.zoo import MODELS, build, imported

__all__ = ["MODELS", "build", "imported", "load", "save"]
