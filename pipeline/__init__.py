"""The data pipeline: manifest -> order -> cache -> encoded samples -> views on the device."""
