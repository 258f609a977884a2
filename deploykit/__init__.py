"""Takes PyTorch image classifiers to production on ONNX Runtime and TensorRT, with Grad-CAM explanations."""

__version__ = "0.1.0.dev0"
