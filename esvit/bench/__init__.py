"""esvit-bench: the cost of a training step, by phase and variant."""
