"""From a folder of images to tar shards with a manifest: plan, write, publish, verify."""
