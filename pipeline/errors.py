"""The root of the error tree.

Every mistake a user can make (a missing file, a mistyped key, a bucket without permission) is a `UserError`: one
sentence that names the thing and says what to do. Each room derives its own class from it, so that a caller may catch
broadly (`UserError`) or narrowly (`ManifestError`). Everything else is our bug and keeps its traceback.

    UserError
    ├── ConfigError                 a config file, a key, or a value of a setting
    ├── MetricsPortError            the port for metrics is taken
    ├── MissingPackageError         a package is not installed; which extra brings it
    │                               -- reading shards --
    ├── StoreError                  a store cannot be read or written
    │   ├── MissingObjectError      there is no such object, or no data set
    │   ├── ReplacedObjectError     an object changed while it was read
    │   └── ScratchError            the shard builder's folder for temporary files
    ├── ManifestError               the manifest is garbled, of another version, or contradicts itself
    ├── ShardIndexError             an index is not the one of the manifest
    ├── TarError                    a tar is truncated, or is not of our layout
    ├── CacheError                  a shard is not the one of the manifest, or the disk does not hold it
    │                               -- the order, and loops --
    ├── OrderError                  batch, lanes, ranks and data do not fit; a state is of another order, or is none
    ├── IterationError              a loop that would lose or repeat samples
    ├── TooManyBadSamples           more images than allowed cannot be decoded
    │                               -- views --
    ├── ExecutorError               no such executor, or not on this machine
    ├── ImageError                  images given by hand cannot be decoded
    ├── TransformError              own augmentation does not return views
    │                               -- pipeline-bench --
    ├── FolderError                 a folder for shards or results cannot be used
    │                               -- training and evaluation --
    ├── ImagesError                 a folder of images is not there, or cannot be built into shards
    ├── TooFewImagesError           a folder is too small to pre-train on
    ├── OutputError                 the folder of a run cannot be written
    ├── OwnPartError                a class named by its path cannot be imported, or does not fit
    ├── RefusedElsewhereError       another rank cannot start
    ├── TooLargeError               a step does not fit into the memory of the GPU
    ├── DeviceError                 the device, or the process group, is not there
    ├── DivergedError               the loss is not finite
    ├── CollapseError               the features have collapsed, and the config says to stop
    ├── OptimizerStateError         a checkpoint's optimiser does not fit
    ├── CheckpointError             a checkpoint is missing, damaged, or of another network
    ├── OfficialCheckpointError     a published checkpoint cannot be read
    ├── ImageSizeError              a network does not take images of that size
    ├── ExportError                 a backbone cannot be exported
    ├── TooFewClasses               a data set with fewer than two classes cannot be evaluated
    ├── ClassMismatch               two data sets have different classes
    │                               -- the shard builder --
    ├── SourceError                 the images to build from
    ├── BuildFlagsError             two flags do not go together
    ├── ShardRangeError             a range of shards that the plan does not have
    ├── PlanError                   options that give no shards
    ├── RunnerError                 workers cannot be had
    ├── WorkerDiedError             a worker process was killed
    ├── ClaimError                  another build is at work, or was of something else
    ├── PublishError                the destination holds something else
    ├── BuildError                  a build cannot be finished
    ├── DemoError                   `make demo`
    └── StateError, StatsError, DryRunError, CopyError, ShowError, BenchError   of single commands
"""


class UserError(ValueError):
    """Something outside this program is wrong; the message is the one sentence that the user sees."""
