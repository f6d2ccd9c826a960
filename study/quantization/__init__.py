"""Finished networks in 8 bits, made, looked into, run and timed by onnxruntime (imported only where it is needed)."""
