"""One row per format that can hold any data set, and one per pre-training set of the paper."""

from tools.shard_builder.readers.base import fixed_layout
from tools.shard_builder.readers.dataset import Dataset
from tools.shard_builder.readers.esvit_archives import esvit_tsv, esvit_zip
from tools.shard_builder.readers.image_folder import image_folder
from tools.shard_builder.readers.image_list import image_list
from tools.shard_builder.readers.imagenet import imagenet_1k, imagenet_22k
from tools.shard_builder.readers.parquet import parquet_images
from tools.shard_builder.readers.web_images import open_images, webvision
from tools.shard_builder.readers.webdataset_tars import webdataset_tars

FORMATS = (
    Dataset(
        name="image-folder",
        use="format",
        read=image_folder,
        layout="[SPLIT/]CLASS/**/IMAGE; with --unlabelled [SPLIT/]**/IMAGE",
    ),
    Dataset(
        name="image-list",
        use="format",
        read=image_list,
        has_columns=True,
        layout="a table, or SPLIT.csv or SPLIT.parquet, with the columns path and label (see --label-column)",
    ),
    Dataset(
        name="webdataset",
        use="format",
        read=webdataset_tars,
        layout="SPLIT/*.tar or SPLIT-*.tar or *.tar, uncompressed; class names in manifest.json or classes.txt",
    ),
    Dataset(
        name="parquet",
        use="format",
        read=parquet_images,
        has_columns=True,
        layout="[data/]SPLIT-*.parquet with the columns image (encoded bytes) and label, as Hugging Face's datasets",
    ),
    Dataset(
        name="esvit-zip",
        use="format",
        read=fixed_layout(esvit_zip),
        layout="SPLIT.zip and SPLIT_map.txt (name, tab, class number)",
    ),
    Dataset(
        name="esvit-tsv",
        use="format",
        read=fixed_layout(esvit_tsv),
        layout="SPLIT.tsv or SPLIT/*.tsv (key, label, base64) with .lineidx beside it; labelmap_22k_reorder.txt",
    ),
)

PRETRAINING_SETS = (
    Dataset(
        name="imagenet-1k",
        use="pre-training",
        read=fixed_layout(imagenet_1k),
        layout=(
            "train/WNID/*.JPEG or ILSVRC2012_img_train.tar or ILSVRC/Data/CLS-LOC/train/WNID/*.JPEG; "
            "val/WNID/*.JPEG, or val/*.JPEG or ILSVRC2012_img_val.tar with ILSVRC2012_devkit_t12/, "
            "or ILSVRC/Data/CLS-LOC/val/*.JPEG with LOC_val_solution.csv"
        ),
        page="https://image-net.org/download.php",
        num_classes=1_000,
        num_images={"train": 1_281_167, "val": 50_000},
    ),
    Dataset(
        name="imagenet-22k",
        use="pre-training",
        read=fixed_layout(imagenet_22k),
        layout="[train/]WNID/*.JPEG or [train/]WNID.tar or fall11_whole.tar",
        page="https://image-net.org/download.php",
        num_classes=21_841,
        num_images={"train": 14_197_122},
    ),
    Dataset(
        name="webvision-v1",
        use="pre-training",
        read=fixed_layout(webvision),
        layout=(
            "info/{synsets,train_filelist_google,train_filelist_flickr,val_filelist}.txt, google/q*/*.jpg, "
            "flickr/q*/*.jpg, val_images_256/*.jpg (or val_images/)"
        ),
        page="https://data.vision.ee.ethz.ch/cvl/webvision/dataset2017.html",
        num_classes=1_000,
        num_images={"train": 2_439_574, "val": 50_000},
    ),
    Dataset(
        name="openimages-v4",
        use="pre-training",
        read=fixed_layout(open_images),
        layout="{train,validation,test}/*.jpg or {train_0,...,train_f,validation,test}/*.jpg",
        page="https://storage.googleapis.com/openimages/web/factsfigures_v4.html",
        num_images={"train": 9_011_219, "validation": 41_620, "test": 125_436},
    ),
)
