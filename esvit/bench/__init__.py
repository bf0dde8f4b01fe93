"""esvit-bench: what a training step costs, by phase and variant."""
