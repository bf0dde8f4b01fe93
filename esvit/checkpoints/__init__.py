"""Checkpoints: their files, when they are written and kept, those of EsViT's authors, export for timm."""
