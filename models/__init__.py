"""Build networks by name; save, load and export them."""

from models.checks import built
from models.own_functions import called, file_module, imported, parcel, source
from models.packages import pretrained
from models.saved import load, load_onnx, save
from models.zoo import MODELS, build

__all__ = [
    "MODELS",
    "build",
    "built",
    "called",
    "file_module",
    "imported",
    "load",
    "load_onnx",
    "parcel",
    "pretrained",
    "save",
    "source",
]
