"""Settings: frozen pydantic models, YAML files and `--set`, and a sentence for every mistake."""

from pipeline.config.config import Config, ConfigError, Source, dump, load, nested, save

__all__ = ["Config", "ConfigError", "Source", "dump", "load", "nested", "save"]
