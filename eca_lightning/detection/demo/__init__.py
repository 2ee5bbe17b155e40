"""Scenes composed of Fashion-MNIST's clothes, to try detection without COCO."""
