"""Settings: frozen pydantic models, YAML files and `--set`. Every mistake gives one sentence."""

from pipeline.config.config import Config, ConfigError, Source, dump, load, nested, save

__all__ = ["Config", "ConfigError", "Source", "dump", "load", "nested", "save"]
