"""Build networks by name; save, load and export them."""

from models.own_functions import imported, parcel, source
from models.saved import load, save
from models.zoo import MODELS, build

__all__ = ["MODELS", "build", "imported", "load", "parcel", "save", "source"]
