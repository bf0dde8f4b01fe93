"""The encoded samples of one rank, step by step: a pure function of the position in the run."""

from pipeline.stream.config import Source, StreamConfig
from pipeline.stream.stream import SampleStream, open_sequential_stream, open_training_stream

__all__ = ["SampleStream", "Source", "StreamConfig", "open_sequential_stream", "open_training_stream"]
