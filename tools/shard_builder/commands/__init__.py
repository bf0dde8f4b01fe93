"""The commands of `shard-builder`, one per file, each with its own arguments."""
