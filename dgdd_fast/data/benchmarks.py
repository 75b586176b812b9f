"""The six benchmarks of the two papers: what they contain and how they are split.

SGS is "Spectral Gradient Surgery" (arXiv 2605.18836), CADM the AAAI-26 paper (vol. 40(9), pp. 7242-7250).
Above each stands the paper whose protocol it is, where the data come from, how they are split, and what was
chosen here where the papers leave it open.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        domains: the domains as the papers list them.
        folder_names: for each domain, how distributions call its folder, compared without case and
            punctuation.
        classes: class names in label order; empty where the paper does not publish its selection.
        num_classes: how many classes there are, also where they are not named.
        resolution: side of the images in pixels.
        test_share: the test part of the seeded split that is made where no official lists are found.
    """

    name: str
    domains: tuple[str, ...]
    folder_names: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]
    num_classes: int
    resolution: int
    test_share: float


CORE50_CATEGORIES = (
    "plug_adapter", "mobile_phone", "scissors", "light_bulb", "can",
    "glasses", "ball", "marker", "cup", "remote_control",
)  # fmt: skip

_OFFICE_HOME_CLASSES = """
    Alarm_Clock Backpack Batteries Bed Bike Bottle Bucket Calculator Calendar Candles Chair Clipboards
    Computer Couch Curtains Desk_Lamp Drill Eraser Exit_Sign Fan File_Cabinet Flipflops Flowers Folder
    Fork Glasses Hammer Helmet Kettle Keyboard Knives Lamp_Shade Laptop Marker Monitor Mop Mouse Mug
    Notebook Oven Pan Paper_Clip Pen Pencil Postit_Notes Printer Push_Pin Radio Refrigerator Ruler
    Scissors Screwdriver Shelf Sink Sneakers Soda Speaker Spoon Table Telephone ToothBrush Toys
    Trash_Can TV Webcam
"""

# SGS, Section 4.1; Zhou et al. 2020. Split: the folders train and val inside each domain, as distributed;
# val is the test part. 600 images per class and domain.
DIGITS_DG = Benchmark(
    name="Digits-DG",
    domains=("mnist", "mnist_m", "svhn", "syn"),
    folder_names=(("mnist",), ("mnistm",), ("svhn",), ("syn", "synthdigits", "syndigits")),
    classes=tuple("0123456789"),
    num_classes=10,
    resolution=32,
    test_share=0.2,
)

# SGS, Section 4.1, and CADM; Li et al. 2017. Split: the official lists <domain>_train_kfold.txt and
# <domain>_crossval_kfold.txt; crossval is the test part. The official lists count the classes from 1; their
# _test_kfold.txt is the whole domain.
PACS = Benchmark(
    name="PACS",
    domains=("photo", "art_painting", "cartoon", "sketch"),
    folder_names=(("photo",), ("artpainting",), ("cartoon",), ("sketch",)),
    classes=("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
    num_classes=7,
    resolution=64,
    test_share=0.1,
)

# SGS, Section 4.1; Lomonaco and Maltoni 2017. Split: the last fifth of the frames of each object's video is
# the test part. The split is chosen here: neighbouring frames are nearly equal, so a random split would
# test what was learnt; objects o1..o5 are the first category, o6..o10 the second, and so on.
CORE50_HARD = Benchmark(
    name="CORe50-Hard",
    domains=("s5", "s7", "s9", "s10"),
    folder_names=(("s5",), ("s7",), ("s9",), ("s10",)),
    classes=CORE50_CATEGORIES,
    num_classes=10,
    resolution=128,
    test_share=0.2,
)

# CADM; Torralba and Efros 2011, split of Carlucci et al. 2019. Split: the folders train and crossval
# (together the train part) and test inside each domain: 70 % and 30 %. The resolution is not published; 64
# is chosen here. Class folders 0..4 are named as above.
VLCS = Benchmark(
    name="VLCS",
    domains=("caltech", "labelme", "pascal", "sun"),
    folder_names=(("caltech", "caltech101"), ("labelme",), ("pascal", "voc2007"), ("sun", "sun09")),
    classes=("bird", "car", "chair", "dog", "person"),
    num_classes=5,
    resolution=64,
    test_share=0.3,
)

# CADM; Venkateswara et al. 2017. Split: a seeded split, 90 % and 10 % of each class and domain. The
# resolution is not published; 64 is chosen here.
OFFICE_HOME = Benchmark(
    name="Office-Home",
    domains=("Art", "Clipart", "Product", "Real World"),
    folder_names=(("art",), ("clipart",), ("product",), ("realworld",)),
    classes=tuple(_OFFICE_HOME_CLASSES.split()),
    num_classes=65,
    resolution=64,
    test_share=0.1,
)

# CADM; Peng et al. 2019. Split: the official lists <domain>_train.txt and <domain>_test.txt where they are
# present, else a seeded split, 80 % and 20 % of each class and domain. Which 100 of the 345 classes CADM
# takes and the resolution are not published; name the classes when loading.
DOMAINNET_SUB = Benchmark(
    name="DomainNet-Sub",
    domains=("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
    folder_names=(("clipart",), ("infograph",), ("painting",), ("quickdraw",), ("real",), ("sketch",)),
    classes=(),
    num_classes=100,
    resolution=64,
    test_share=0.2,
)

BENCHMARKS = (DIGITS_DG, PACS, CORE50_HARD, VLCS, OFFICE_HOME, DOMAINNET_SUB)


def name_key(name: str) -> str:
    """A name without case, spaces and punctuation: ``Real World`` and ``real_world`` are one."""
    return re.sub(r"[\W_]", "", name).casefold()


def domain_key(name: str) -> str:
    """One spelling for all the names under which a benchmark's domain is distributed, or `name_key`."""
    key = name_key(name)
    for benchmark in BENCHMARKS:
        for domain, others in zip(benchmark.domains, benchmark.folder_names, strict=True):
            if key in others:
                return name_key(domain)
    return key


def recognise(domain_names: Iterable[str], class_names: Iterable[str]) -> Benchmark | None:
    """The benchmark that has all these domains and classes among its own, or None.

    Where the selection of classes is not published any class is taken as one of it. VLCS is also known by its
    numbered class folders.
    """
    domain_keys = {name_key(name) for name in domain_names}
    class_keys = {name_key(name) for name in class_names}
    for benchmark in BENCHMARKS:
        known = {key for keys in benchmark.folder_names for key in keys}
        classes = {name_key(name) for name in benchmark.classes}
        numbers = {str(number) for number in range(benchmark.num_classes)} if benchmark is VLCS else set()
        if domain_keys <= known and (not classes or class_keys <= classes or class_keys == numbers):
            return benchmark
    return None
