"""The root of the error tree.

Every mistake a user can make (a missing file, a mistyped key, a bucket without permission) is a `UserError`: one
sentence that names the thing and says what to do. Each room derives its own class, so a caller may catch broadly
(`UserError`) or narrowly (`ManifestError`). Every other exception is our bug and keeps its traceback.

    UserError
    ├── ConfigError                 a config file, a key, or a value of a setting
    ├── MetricsPortError            the port for metrics is taken
    ├── MissingPackageError         a package is not installed; the message names the extra to install
    │                               -- reading shards --
    ├── StoreError                  a store cannot be read or written
    │   ├── MissingObjectError      there is no such object, or no data set
    │   ├── ReplacedObjectError     an object changed while it was read
    │   └── ScratchError            the shard builder's folder for temporary files
    ├── ManifestError               the manifest is of another version, or contradicts itself
    │   └── DamagedManifestError    the manifest does not have its checksum
    ├── UnsafeNameError             a name in a manifest is no file name, but perhaps a path
    ├── ShardIndexError             an index does not match the manifest
    ├── TarError                    a tar is truncated, or does not have our layout
    ├── CacheError                  a shard does not match the manifest, or the local disk cannot hold it
    ├── DamagedShardError           the bytes of a sample are not those that were built
    │                               -- the order, and loops --
    ├── OrderError                  batch, lanes, ranks and data do not fit; or a state belongs to another order
    ├── IterationError              a loop would lose or repeat samples
    ├── TooManyBadSamples           more images than allowed cannot be decoded
    │                               -- views --
    ├── ExecutorError               an executor or device is unknown, or cannot run on this machine
    ├── ImageError                  an image of the caller cannot be decoded
    ├── TransformError              a user's transform does not return views
    │                               -- pipeline-bench --
    ├── FolderError                 a folder for shards or results cannot be used
    │                               -- training and evaluation --
    ├── ImagesError                 a folder of images is not there, or cannot be built into shards
    ├── TooFewImagesError           a folder is too small to pre-train on
    ├── OutputError                 the folder of a run cannot be written
    ├── OutputHeldError             another run writes into output or checkpoints
    ├── OutputLostError             another run has taken them over
    ├── DisagreementError           the ranks have read different manifests, checkpoints or settings
    ├── OwnPartError                a class given by its dotted path cannot be imported, or does not fit
    ├── RefusedElsewhereError       another rank cannot start or go on
    ├── LostRankError               another rank has failed
    ├── TooLargeError               a step does not fit into the memory of the GPU
    ├── DeviceError                 there is no such device, or the process group cannot start
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
    ├── SourceError                 the images to build from cannot be read or listed
    ├── BuildFlagsError             two flags contradict each other
    ├── ShardRangeError             the plan does not have this range of shards
    ├── PlanError                   the options give no shards
    ├── RunnerError                 workers cannot be started
    ├── WorkerDiedError             a worker process was killed
    ├── ClaimError                  another build is running, or an earlier build had other inputs
    ├── PublishError                the destination holds other shards
    ├── BuildError                  a build cannot be finished
    ├── DemoError                   `make demo` cannot run
    └── StateError, StatsError, DryRunError, CopyError, UpgradeError, ShowError, BenchError   one command cannot run
"""

from pipeline.printable import printable


class UserError(ValueError):
    """Something outside this program is wrong. The message is one sentence, shown to the user as it is.

    Names in the message may come from hostile data, and a URL may contain a password: see `printable`.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message))
