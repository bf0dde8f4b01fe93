"""pipeline-bench: what the data pipeline does a second, side by side with what it could do."""
