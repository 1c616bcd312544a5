"""The head's loss without its scores: classes in chunks, and split over the devices of a mesh."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from bce_jax import losses
from bce_jax.models.head import Head


class ChunkedBCE(NamedTuple):
  """`losses.linear_bce_mean` of a head's classifier.

  The mesh's axis 'data' splits the batch, 'class' the classifier: each device scores its examples
  by its own rows, and what is exchanged is one number, and in the backward pass the gradient of
  the features. Rows that fill up the last device's share are padding and never count.

  Attributes:
    head: whose normalization, scale and number of classes hold.
    mesh: with axes 'data' and 'class'; None for one device, or inside of `pmap`.
    chunk_size: classes whose scores exist at one time; None chooses it.
  """

  head: Head
  mesh: Mesh | None = None
  chunk_size: int | None = None

  def __call__(
    self,
    features: Float[Array, "b D"],
    weights: Float[Array, "N D"],
    labels: Int[Array, " b"],
    *,
    bias: Float[Array, ""] | Float[Array, " N"],
    margin: float = 0.0,
    negative_weight: float = 1.0,
    smoothing: float = 0.0,
    class_mask: Bool[Array, " N"] | None = None,
    example_weights: Float[Array, " b"] | None = None,
  ) -> Float[Array, ""]:
    """Returns the mean loss of a batch: the options are those of `losses.linear_bce_mean`."""
    sides = (self.head.normalize_features, self.head.normalize_weights)
    names: dict[Any, Any] = {(1, 1): True, (1, 0): "features", (0, 1): "weights", (0, 0): False}

    def mean(arrays: dict[str, Any], axis_name: str | None = None) -> jax.Array:
      return losses.linear_bce_mean(
        **arrays,
        scale=self.head.scale,
        margin=margin,
        negative_weight=negative_weight,
        smoothing=smoothing,
        normalize=names[sides],
        chunk_size=self.chunk_size,
        axis_name=axis_name,
        num_classes=self.head.num_classes,
      )

    arrays = {"features": features, "weights": weights, "labels": labels, "bias": bias}
    if class_mask is not None:
      arrays["class_mask"] = class_mask
    if example_weights is not None:
      arrays["example_weights"] = example_weights
    if self.mesh is None or self.mesh.size == 1:
      return mean(arrays)

    axes = {"weights": "class", "class_mask": "class", "bias": "class" if bias.ndim else None}
    split = {name: axes.get(name, "data") for name in arrays}
    missing = -self.head.num_classes % self.mesh.shape["class"]
    if missing:
      for name in (name for name, axis in split.items() if axis == "class"):
        x = arrays[name]
        arrays[name] = jnp.pad(x, ((0, missing),) + ((0, 0),) * (x.ndim - 1))
    specs = {name: PartitionSpec(axis) if axis else PartitionSpec() for name, axis in split.items()}
    loss: jax.Array = jax.shard_map(
      # The mean over all devices inside, so that gradients are of that mean.
      lambda arrays: jax.lax.pmean(mean(arrays, "class"), "data"),
      mesh=self.mesh,
      in_specs=(specs,),
      out_specs=PartitionSpec(),
    )(arrays)
    return loss
