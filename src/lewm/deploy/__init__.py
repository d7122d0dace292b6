"""Take a run to a robot's computer: an export folder, and the controller that needs NumPy and ONNX Runtime alone."""
