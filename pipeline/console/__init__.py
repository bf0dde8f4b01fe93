"""The parts that all console scripts share: exit codes, types of flags, missing packages, progress."""
