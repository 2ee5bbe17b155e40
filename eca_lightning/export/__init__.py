"""``eca-lightning export``: networks as ONNX, torch.export programs and .safetensors."""
