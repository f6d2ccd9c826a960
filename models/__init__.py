"""Build networks by name; save, load and export them."""

from models.own_functions import file_module, imported, parcel, source
from models.saved import load, save
from models.zoo import MODELS, build

__all__ = ["MODELS", "build", "file_module", "imported", "load", "parcel", "save", "source"]
