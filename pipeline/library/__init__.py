"""Ways into the data path for code of your own: in one call, as a list, as a stage of webdataset (docs/library.md)."""
