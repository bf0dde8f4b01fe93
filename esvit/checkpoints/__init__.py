"""Checkpoints: files, when to write and keep them, the format of EsViT's authors, export for timm."""
