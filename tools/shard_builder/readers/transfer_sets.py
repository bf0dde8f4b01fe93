"""One row per transfer data set: ELEVATER's 20 (Li et al. 2022), and the others of the paper's 18."""

from collections.abc import Callable
from pathlib import Path

from tools.shard_builder.readers.base import Reader, fixed_layout
from tools.shard_builder.readers.dataset import Dataset, Metric, Suite
from tools.shard_builder.readers.kitti_distance import kitti_distance
from tools.shard_builder.readers.transfer_arrays import (
    cifar_10,
    cifar_100,
    fer_2013,
    mnist,
    patch_camelyon,
    stl_10,
)
from tools.shard_builder.readers.transfer_files import (
    caltech_101,
    country211,
    dtd,
    eurosat,
    fgvc_aircraft,
    food_101,
    gtsrb,
    hateful_memes,
    oxford_flowers,
    oxford_pets,
    rendered_sst2,
    resisc45,
    stanford_cars,
    sun397,
    ucf101,
    voc_2007,
)

_BOTH: tuple[Suite, ...] = ("elevater", "clip-18")


def _row(
    name: str,
    read: Callable[[Path, str], Reader],
    num_classes: int,
    num_images: dict[str, int],
    metric: Metric,
    suites: tuple[Suite, ...],
    page: str,
    layout: str,
) -> Dataset:
    return Dataset(name, "transfer", fixed_layout(read), layout, page, num_classes, num_images, metric, suites)


TRANSFER_SETS = (
    _row(
        "caltech-101", caltech_101, 102, {"train": 3_060, "test": 6_084}, "mean-per-class", _BOTH,
        "https://data.caltech.edu/records/mzrjq-6wc02",
        "101_ObjectCategories/CLASS/image_*.jpg",
    ),
    _row(
        "cifar-10", cifar_10, 10, {"train": 50_000, "test": 10_000}, "accuracy", _BOTH,
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}",
    ),
    _row(
        "cifar-100", cifar_100, 100, {"train": 50_000, "test": 10_000}, "accuracy", _BOTH,
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar-100-python/{train,test,meta}",
    ),
    _row(
        "country211", country211, 211, {"train": 31_650, "val": 10_550, "test": 21_100}, "accuracy", ("elevater",),
        "https://github.com/openai/CLIP/blob/main/data/country211.md",
        "country211/{train,valid,test}/CC/*.jpg",
    ),
    _row(
        "dtd", dtd, 47, {"train": 1_880, "val": 1_880, "test": 1_880}, "accuracy", _BOTH,
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        "dtd/images/CLASS/*.jpg, dtd/labels/{train,val,test}1.txt",
    ),
    _row(
        "eurosat", eurosat, 10, {"train": 5_000, "val": 5_000, "test": 5_000}, "accuracy", ("elevater",),
        "https://github.com/phelber/EuroSAT",
        "2750/CLASS/*.jpg or EuroSAT_RGB/CLASS/*.jpg",
    ),
    _row(
        "fer-2013", fer_2013, 7, {"train": 28_709, "val": 3_589, "test": 3_589}, "accuracy", _BOTH,
        "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge",
        "fer2013.csv or icml_face_data.csv",
    ),
    _row(
        "fgvc-aircraft", fgvc_aircraft, 100, {"train": 3_334, "val": 3_333, "test": 3_333}, "mean-per-class", _BOTH,
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        "fgvc-aircraft-2013b/data/{images/*.jpg,variants.txt,images_variant_{train,val,test}.txt}",
    ),
    _row(
        "food-101", food_101, 101, {"train": 75_750, "test": 25_250}, "accuracy", _BOTH,
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        "food-101/images/CLASS/*.jpg, food-101/meta/{classes,train,test}.txt",
    ),
    _row(
        "gtsrb", gtsrb, 43, {"train": 26_640, "val": 12_569, "test": 12_630}, "accuracy", _BOTH,
        "https://benchmark.ini.rub.de/gtsrb_dataset.html",
        "GTSRB/Training/NNNNN/*.ppm, GTSRB/Online-Test-sort/NNNNN/*.ppm, GTSRB/Final_Test/Images/*.ppm, "
        "GT-final_test.csv",
    ),
    _row(
        "hateful-memes", hateful_memes, 2, {"train": 8_500, "test": 500}, "roc-auc", _BOTH,
        "https://ai.meta.com/tools/hatefulmemes/",
        "[data/]img/*.png, [data/]train.jsonl, [data/]dev.jsonl or [data/]dev_seen.jsonl",
    ),
    _row(
        "kitti-distance", kitti_distance, 4, {"train": 6_347, "val": 423, "test": 711}, "accuracy", ("elevater",),
        "https://www.cvlibs.net/datasets/kitti/eval_object.php",
        "training/image_2/*.png, training/label_2/*.txt, mapping/{train_mapping,train_rand}.txt",
    ),
    _row(
        "mnist", mnist, 10, {"train": 60_000, "test": 10_000}, "accuracy", _BOTH,
        "http://yann.lecun.com/exdb/mnist/",
        "{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]",
    ),
    _row(
        "oxford-flowers-102", oxford_flowers, 102, {"train": 1_020, "val": 1_020, "test": 6_149},
        "mean-per-class", _BOTH,
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        "jpg/image_*.jpg, imagelabels.mat, setid.mat",
    ),
    _row(
        "oxford-iiit-pets", oxford_pets, 37, {"train": 3_680, "test": 3_669}, "mean-per-class", _BOTH,
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        "images/*.jpg, annotations/{trainval,test}.txt",
    ),
    _row(
        "patch-camelyon", patch_camelyon, 2, {"train": 262_144, "val": 32_768, "test": 32_768}, "accuracy", _BOTH,
        "https://github.com/basveeling/pcam",
        "camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5",
    ),
    _row(
        "rendered-sst2", rendered_sst2, 2, {"train": 6_920, "val": 872, "test": 1_821}, "accuracy", ("elevater",),
        "https://github.com/openai/CLIP/blob/main/data/rendered-sst2.md",
        "rendered-sst2/{train,valid,test}/{negative,positive}/*.png",
    ),
    _row(
        "resisc45", resisc45, 45, {"train": 3_150, "val": 3_150, "test": 25_200}, "accuracy", ("elevater",),
        "https://gcheng-nwpu.github.io/#Datasets",
        "NWPU-RESISC45/CLASS/*.jpg",
    ),
    _row(
        "stanford-cars", stanford_cars, 196, {"train": 8_144, "test": 8_041}, "accuracy", _BOTH,
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        "cars_train/*.jpg, cars_test/*.jpg, devkit/{cars_meta,cars_train_annos,cars_test_annos_withlabels}.mat",
    ),
    _row(
        "stl-10", stl_10, 10, {"train": 5_000, "test": 8_000}, "accuracy", ("clip-18",),
        "https://cs.stanford.edu/~acoates/stl10/",
        "stl10_binary/{train,test}_{X,y}.bin, stl10_binary/class_names.txt",
    ),
    _row(
        "sun397", sun397, 397, {"train": 19_850, "test": 19_850}, "accuracy", ("clip-18",),
        "https://vision.princeton.edu/projects/2010/SUN/",
        "SUN397/**/*.jpg, Partitions/{ClassName,Training_01,Testing_01}.txt",
    ),
    _row(
        "ucf101", ucf101, 101, {"train": 9_537, "test": 3_783}, "accuracy", ("clip-18",),
        "https://www.crcv.ucf.edu/research/data-sets/ucf101/",
        "UCF-101-midframes/CLASS/v_*.jpg, ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt",
    ),
    _row(
        "voc-2007", voc_2007, 20, {"train": 2_501, "val": 2_510, "test": 4_952}, "11-point-map", _BOTH,
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
        "VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}/",
    ),
)  # fmt: skip
