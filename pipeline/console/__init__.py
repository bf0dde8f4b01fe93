"""What all console scripts share: exit status, types of flags, missing packages, progress."""
