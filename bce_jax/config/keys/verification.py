"""Keys of open-set verification: whether two images show the same class, one never trained on."""

from ml_collections import ConfigDict

from bce_jax.config.key import DATA, EVALUATION, FILES, SHARE, Group, Key

GROUP = Group(
  "Open-set verification: whether two images show the same class, of classes never trained on",
  {
    "verification.identities": Key(
      0.0,
      DATA,
      "share of the folder's classes held out of training and test, to be verified; 0: none",
      range=SHARE,
    ),
    # LFW's protocol, see docs/verification.md.
    "verification.folder": Key(
      "",
      FILES,
      "in place of identities: folder of the images that verification.pairs names",
      path=True,
    ),
    "verification.pairs": Key(
      "", FILES, "list of pairs to verify, as LFW's pairs.txt or as CSV", path=True
    ),
    "verification.flip": Key(
      False, EVALUATION, "add up the embeddings of each image and its horizontal flip"
    ),
  },
)


def check(config: ConfigDict) -> None:
  """Refuses a folder without pairs, two sources of classes, and options without effect."""
  chosen = config.verification
  if bool(chosen.folder) != bool(chosen.pairs):
    given, lacking = ("folder", "pairs") if chosen.folder else ("pairs", "folder")
    raise ValueError(
      f"config.verification.{given} is {chosen[given]!r}: set config.verification.{lacking} too"
    )
  if chosen.identities and chosen.folder:
    raise ValueError(
      "config.verification.identities and config.verification.folder are both set: expected one"
    )
  if chosen.identities and config.data.name != "folder":
    raise ValueError(
      f"config.verification.identities is {chosen.identities}, but config.data.name is"
      f" {config.data.name!r}: expected 'folder'"
    )
  if chosen.flip and not (chosen.identities or chosen.folder):
    raise ValueError(
      "config.verification.flip is true, without effect: set config.verification.identities or"
      " config.verification.folder too"
    )
