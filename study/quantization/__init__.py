"""Finished networks in 8 bits: made, run, timed and looked into by onnxruntime, which only this package imports."""
