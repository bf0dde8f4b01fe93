"""Finished data sets: their shards on the local disk or read by range, fetched ahead of use."""
