"""EsViT pre-training and its evaluation: networks, losses, the loop (arXiv 2106.09785)."""
