"""Keys of the data and their augmentation."""

from ml_collections import ConfigDict

from bce_jax.config.key import (
  DATA,
  FILES,
  FINITE,
  NOTHING,
  ORDER,
  POSITIVE,
  READING,
  SHARE,
  UPDATES,
  Group,
  Key,
)
from bce_jax.data import folders, layouts, longtail, sources

GROUP = Group(
  "Data",
  {
    "data.name": Key(
      "digits",
      DATA,
      "the data set: scikit-learn's digits, or a folder of image files (data.folder)",
      choices=sources.names(),
      outside=True,
    ),
    "data.folder": Key(
      "",
      FILES,
      "folder of images: FOLDER/train/<class>/* and FOLDER/test/<class>/*, or FOLDER/<class>/*",
      path=True,
    ),
    "data.image_size": Key(
      None,
      DATA,
      "side in pixels to resize and crop a folder's images to; none: all have one size already",
      kind=int,
      least=8,
    ),
    "data.layout": Key(
      "auto",
      READING,
      "flat (a folder per class), splits (train, test, …), or auto: as the folder looks",
      choices=layouts.LAYOUTS,
    ),
    "data.empty_classes": Key(
      "refuse",
      DATA,
      "what to do with a class without training images",
      choices=folders.EMPTY,
    ),
    # In training another of the class stands in, in evaluation they are left out.
    "data.skip_damaged": Key(
      0, FILES, "how many damaged images may be skipped before the run is refused", least=0
    ),
    "data.full_scale": Key(
      None,
      READING,
      "value of white in images of more than 8 bits per channel; none: as each file says",
      kind=float,
      range=POSITIVE,
    ),
    "data.channels": Key(
      3,
      DATA,
      "channels that a folder's images are read with: 3 for color, 1 for gray",
      choices=(1, 3),
    ),
    "data.in_memory": Key(
      None,
      NOTHING,
      "hold a folder's images in memory; none: if they take 2 GiB at most",
      kind=bool,
    ),
    "data.workers": Key(
      0, NOTHING, "worker processes that read images not held in memory; 0: threads only", least=0
    ),
    "data.validation_fraction": Key(
      0.0,
      DATA,
      "share of the training images held out, to choose the best checkpoint and a threshold",
      range=SHARE,
      below=1,
    ),
    "data.test_fraction": Key(
      0.2,
      DATA,
      "share of the images that becomes the test split, for a folder without one",
      range=(0, False, 1),
      below=1,
    ),
    "data.imbalance": Key(
      None,
      DATA,
      "makes the training set long-tailed: images of its largest class over those of its smallest",
      kind=float,
      range=(1, True, float("inf")),
    ),
    "data.imbalance_profile": Key(
      "exponential",
      DATA,
      "how the class sizes fall in a long-tailed set",
      choices=longtail.PROFILES,
    ),
    "data.imbalance_seed": Key(
      None,
      DATA,
      "seed for choosing the images of a long-tailed set; none: the first of each class",
      kind=int,
      least=0,
    ),
    "data.sampling_exponent": Key(
      0.0,
      ORDER,
      "q: classes of n images are sampled in proportion to n^(1−q); 0: each image once per epoch",
      range=FINITE,
    ),
    "data.augmentation": Key(
      "standard",
      UPDATES,
      "standard: as the four keys below say; one of your own need not heed them",
      choices=("standard",),
      outside=True,
    ),
    "data.crop_padding": Key(
      4, UPDATES, "shift training images at random by up to this many pixels", least=0
    ),
    "data.flip": Key(True, UPDATES, "flip half of the training images left to right, at random"),
    "data.auto_augment": Key(
      False, UPDATES, "augment training images by AutoAugment's CIFAR-10 policy"
    ),
    "data.cutout": Key(
      0, UPDATES, "side in pixels of a square blacked out in each training image; 0: none", least=0
    ),
  },
)


def check(config: ConfigDict) -> None:
  """Refuses options of a long-tailed subset where none is asked for."""
  for key in ("imbalance_profile", "imbalance_seed"):
    default = GROUP.keys[f"data.{key}"].default
    if config.data[key] != default and not config.data.imbalance:
      raise ValueError(
        f"config.data.{key} is {config.data[key]!r}, without effect: set config.data.imbalance too"
      )
