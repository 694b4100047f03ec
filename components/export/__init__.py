"""The ONNX file: writing it, proving it equal, running it alone."""
