"""Finished data sets: shards on the local disk or read by range, fetched before use."""
