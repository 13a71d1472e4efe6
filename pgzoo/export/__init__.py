"""Trained policies for other programs: ONNX, TorchScript, SB3's zip, and the Hugging Face Hub."""
