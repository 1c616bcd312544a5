"""The classifier on top of the features: similarities c, a scale, a bias that is a threshold."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bce_jax import losses

BIASES = ("none", "unified", "diverse")
WEIGHT_INITS = ("uniform", "normal")
BIAS_INITS = ("prior", "zero", "0", "1", "2", "3", "4", "5", "6", "7")


class Scores(NamedTuple):
  """What the losses take: similarities, scale and bias of z = scale · c − bias.

  Attributes:
    similarities: c, wᵀx or with normalized features and weights the cosine: [batch, N], float32.
    scale: γ.
    bias: one number, or one per class: [] or [N], float32.
  """

  similarities: Float[Array, "batch N"]
  scale: float
  bias: Float[Array, ""] | Float[Array, " N"]

  @property
  def scaled(self) -> Float[Array, "batch N"]:
    """The scores scale · c, on which the bias and a threshold can be compared."""
    return self.scale * self.similarities

  @property
  def decision(self) -> Float[Array, "batch N"]:
    """The decision scores z = scale · c − bias."""
    return self.scaled - self.bias

  def accuracy(self, labels: Int[Array, " b"]) -> Float[Array, ""]:
    """The share of samples whose own class has the largest decision score."""
    return jnp.mean((jnp.argmax(self.decision, -1) == labels).astype(jnp.float32))


class Head(nn.Module):
  r"""Linear or cosine classifier with a bias that is one number, one per class, or absent.

    z_j = scale · c_j − b_j,   c_j = w_jᵀx, with x̂ and ŵ in place of x and w where normalized

  Parameters: weights [N, features]; bias [] or [N]. All in float32 whatever the backbone's dtype.

  Attributes:
    num_classes: N.
    normalize_features: use x / ‖x‖.
    normalize_weights: use w / ‖w‖. Both together give the cosine (the losses -nu and -nd).
    scale: γ > 0, not learned.
    weight_init: "uniform", U(±1/√features) (std 1/√(3 · features)), or "normal",
      N(0, 1/features). Where weights are normalized only the step size feels their length.
    bias: "none" (0, no parameter), "unified" (one number) or "diverse" (one per class).
    bias_init: "prior", log(10 · N); "zero"; "0", U(±1/√features); "1" … "7", the deterministic
      modes of `losses.bias_init`, for the diverse bias only.
    bias_mean: constant added to the initial bias.
    bias_learnable: False keeps the bias where it starts: its gradient is 0. (An optimizer must not
      decay it either: see `bce_jax.optim`.)

  Raises:
    ValueError: for an unknown bias, weight_init or bias_init, and for a mode "1" … "7" of a
      unified bias.

  Source: Li et al., arXiv 2403.07289, §3 and figure 3; prior: UniFace, ICCV 2023, §3.4.
  """

  num_classes: int
  normalize_features: bool = False
  normalize_weights: bool = False
  scale: float = 1.0
  weight_init: str = "uniform"
  bias: str = "unified"
  bias_init: str = "prior"
  bias_mean: float = 0.0
  bias_learnable: bool = True

  @nn.compact
  def __call__(self, features: Float[Array, "batch D"]) -> Scores:
    """Scores the features of a batch, in float32."""
    features = features.astype(jnp.float32)
    if self.weight_init not in WEIGHT_INITS:
      raise ValueError(
        f"unknown weight_init {self.weight_init!r}: expected one of {', '.join(WEIGHT_INITS)}"
      )
    if self.weight_init == "uniform":
      init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2)
    else:
      init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-1, out_axis=-2)
    shape = (self.num_classes, features.shape[-1])
    weights = self.param("weights", init, shape, jnp.float32)
    if self.normalize_features and self.normalize_weights:
      similarities = losses.cosine(features, weights)
    else:
      if self.normalize_features:
        features = losses.l2_normalize(features)
      if self.normalize_weights:
        weights = losses.l2_normalize(weights)
      similarities = jnp.matmul(features, weights.T, precision=jax.lax.Precision.HIGHEST)
    return Scores(similarities, self.scale, self._bias(features.shape[-1]))

  def _bias(self, num_features: int) -> jax.Array:
    if self.bias not in BIASES:
      raise ValueError(f"unknown bias {self.bias!r}: expected one of {', '.join(BIASES)}")
    if self.bias_init not in BIAS_INITS:
      raise ValueError(
        f"unknown bias_init {self.bias_init!r}: expected one of {', '.join(BIAS_INITS)}"
      )
    if self.bias == "none":
      return jnp.zeros(())
    if self.bias == "unified" and self.bias_init in BIAS_INITS[3:]:
      raise ValueError(
        f"bias_init {self.bias_init!r} differs from class to class and needs a diverse bias;"
        f" a unified one starts at {', '.join(BIAS_INITS[:3])}"
      )
    shape = () if self.bias == "unified" else (self.num_classes,)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
      if self.bias_init == "prior":
        values = jnp.full(shape, losses.prior_bias(self.num_classes))
      elif self.bias_init == "zero":
        values = jnp.zeros(shape)
      elif self.bias_init == "0":
        bound = num_features**-0.5  # the default of torch.nn.Linear
        values = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
      else:
        values = losses.bias_init(int(self.bias_init), self.num_classes)
      return (values + self.bias_mean).astype(dtype)

    bias = self.param("bias", init, shape, jnp.float32)
    return bias if self.bias_learnable else jax.lax.stop_gradient(bias)
