"""Keys of the group `data` that not every source has a use for."""

from typing import Any

# Their defaults.
_OF_A_FOLDER = {
  "folder": "",
  "image_size": None,
  "in_memory": None,
  "layout": "auto",
  "empty_classes": "refuse",
}
# Which the images of listed pairs have a use for, too.
_OF_FILES = {"full_scale": None, "skip_damaged": 0}


def refuse_keys_of_a_folder(config: Any) -> None:
  """Refuses keys that only a folder of image files has a use for."""
  for key, default in (_OF_A_FOLDER | ({} if config.verification.folder else _OF_FILES)).items():
    value = config.data[key]
    if value != default:
      raise ValueError(
        f"config.data.{key} is {value!r}, but config.data.name is"
        f" {config.data.name!r}: expected 'folder'"
      )
