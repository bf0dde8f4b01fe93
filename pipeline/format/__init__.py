"""The bytes on disk: tar shards, their index, the manifest. This package alone knows the layout."""
