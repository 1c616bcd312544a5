"""The outputs of a network for a split, from which every measure of it is computed."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bce_jax.metrics import ClassMoments

Pairs = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]


class SplitOutputs(NamedTuple):
  """The outputs of a network for the n images of a split, as numpy arrays.

  Attributes:
    labels: class ids.
    num_classes: N.
    train_counts: training images of each class; None where they are not known.
    bias: the head's, one number or one per class; None where there is none.
    positive: score of the own class, on z = scale · c − bias.
    hardest_negative: largest score of another class, on z.
    scaled_positive: the same on scale · c.
    scaled_hardest_negative: likewise.
    flipped: (positive, hardest negative) of z averaged over image and flipped image; or None.
    adjusted: (positive, hardest negative) of z − τ log π, post-hoc logit adjustment; or None.
    features: what the head is given; None unless a metric needs them.
    scores: scale · c of every class; likewise.
    moments: sums of the features of each class; None where they are not summed up.
    weights: the classifier's rows, beside the moments; or None.
  """

  labels: Int[np.ndarray, " n"]
  num_classes: int
  train_counts: Int[np.ndarray, " N"] | None
  bias: Float[np.ndarray, "..."] | None
  positive: Float[np.ndarray, " n"]
  hardest_negative: Float[np.ndarray, " n"]
  scaled_positive: Float[np.ndarray, " n"]
  scaled_hardest_negative: Float[np.ndarray, " n"]
  flipped: Pairs | None = None
  adjusted: Pairs | None = None
  features: Float[np.ndarray, "n D"] | None = None
  scores: Float[np.ndarray, "n N"] | None = None
  moments: ClassMoments | None = None
  weights: Float[np.ndarray, "N D"] | None = None
