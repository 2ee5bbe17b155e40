"""``eca-lightning export``: write networks as ONNX, torch.export programs or .safetensors."""
