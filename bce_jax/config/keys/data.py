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
      "digits", DATA, "the data: digits (embedded) or folder", choices=sources.names(), outside=True
    ),
    "data.folder": Key(
      "",
      FILES,
      "FOLDER/train/<class>/* and FOLDER/test/<class>/*, or FOLDER/<class>/*",
      path=True,
    ),
    "data.image_size": Key(
      None,
      DATA,
      "side in pixels that images are resized and cropped to; none: they have one size",
      kind=int,
      least=8,
    ),
    "data.layout": Key(
      "auto",
      READING,
      "auto, flat (a folder for each class) or splits (train, test, …), where it can be both",
      choices=layouts.LAYOUTS,
    ),
    "data.empty_classes": Key(
      "refuse",
      DATA,
      "what becomes of a class without training images: refuse, drop or keep",
      choices=folders.EMPTY,
    ),
    # In training another of the class stands in, in evaluation they are left out.
    "data.skip_damaged": Key(0, FILES, "damaged images that may be skipped", least=0),
    "data.full_scale": Key(
      None,
      READING,
      "value of white in images of more than 8 bits; none: as each file says",
      kind=float,
      range=POSITIVE,
    ),
    "data.channels": Key(3, DATA, "of a folder's images: 3, color, or 1, gray", choices=(1, 3)),
    "data.in_memory": Key(
      None,
      NOTHING,
      "whether a folder's images are held in memory; none: if they take 2 GiB at most",
      kind=bool,
    ),
    "data.workers": Key(0, NOTHING, "processes that read images not held in memory", least=0),
    "data.validation_fraction": Key(
      0.0,
      DATA,
      "share of the training images held out, for the best checkpoint and a threshold",
      range=SHARE,
      below=1,
    ),
    "data.test_fraction": Key(
      0.2,
      DATA,
      "share of the images that becomes the test split of a folder that has none",
      range=(0, False, 1),
      below=1,
    ),
    "data.imbalance": Key(
      None,
      DATA,
      "makes training long-tailed: images of the first class over those of the last",
      kind=float,
      range=(1, True, float("inf")),
    ),
    "data.imbalance_profile": Key(
      "exponential", DATA, "how the classes' sizes fall", choices=longtail.PROFILES
    ),
    "data.imbalance_seed": Key(
      None,
      DATA,
      "of the choice within each class; none: its first images in data order",
      kind=int,
      least=0,
    ),
    "data.sampling_exponent": Key(
      0.0,
      ORDER,
      "q: a class of n images is drawn as often as n^(1−q); 0: each image once an epoch",
      range=FINITE,
    ),
    "data.augmentation": Key(
      "standard",
      UPDATES,
      "standard: by the four keys below; or one of your own, which they do not count for",
      choices=("standard",),
      outside=True,
    ),
    "data.crop_padding": Key(4, UPDATES, "random shifts by up to so many pixels", least=0),
    "data.flip": Key(True, UPDATES, "flip half of the training images left to right"),
    "data.auto_augment": Key(False, UPDATES, "apply AutoAugment's CIFAR-10 policy"),
    "data.cutout": Key(0, UPDATES, "side in pixels of a square that is blacked out", least=0),
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
