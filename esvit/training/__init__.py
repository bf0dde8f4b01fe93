"""A training run: settings, start, loop (`loop.train`) and end."""
