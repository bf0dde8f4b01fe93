"""The data path for users' own code: in one call, as a list, as a stage of webdataset (docs/library.md)."""
