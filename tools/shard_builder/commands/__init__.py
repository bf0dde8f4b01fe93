"""The commands of `shard-builder`, one a file, each with its own arguments."""
