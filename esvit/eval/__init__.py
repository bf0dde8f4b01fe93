"""Evaluation protocols on frozen features (EsViT, section 4)."""
