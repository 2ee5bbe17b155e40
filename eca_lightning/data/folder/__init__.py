"""Image files in folders, without FFCV."""
