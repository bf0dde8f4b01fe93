"""Turn a folder of images into tar shards with a manifest: plan, write, publish, verify."""
