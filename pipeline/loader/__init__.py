"""Views on the device, ahead of the training step."""

from pipeline.loader.loader import DataConfig, Transform, TransformError, ViewBatch, ViewLoader, open_loader

__all__ = ["DataConfig", "Transform", "TransformError", "ViewBatch", "ViewLoader", "open_loader"]
