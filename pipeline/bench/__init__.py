"""pipeline-bench: the speed of the data pipeline, compared with its upper bounds and with other libraries."""
