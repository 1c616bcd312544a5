"""Embeddings and their cosines, which are equal where they should be."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bce_jax import checks
from bce_jax.norms import MIN_NORM

_ROWS = 4096  # vectors that are split at once
_COARSE = 2.0**26  # products of two such numbers have 52 bits behind the point
BLOCK = 2**22
"""Scores that exist at once."""


def host(name: str, x: Any, kind: Any, shape: tuple[int | None, ...]) -> np.ndarray:
  """`x` as a numpy array of that kind and shape, in which None is any length."""
  value = checks.known(x)
  if value is None:
    raise ValueError(f"{name} must be at hand: call this outside jit, on what jit returned")
  if not jnp.issubdtype(value.dtype, kind):
    raise ValueError(f"{name} must be of kind {kind.__name__}, got dtype {value.dtype}")
  fits = value.ndim == len(shape) and all(
    want in (None, have) for want, have in zip(shape, value.shape, strict=True)
  )
  if not fits:
    wanted = ", ".join("n" if length is None else str(length) for length in shape)
    raise ValueError(f"{name} must have shape [{wanted}], got {value.shape}")
  return value


def scores(scores: Any) -> np.ndarray:
  """Scores of pairs as float32, or float64 where they are; finite, [n]."""
  values = host("scores", scores, np.floating, (None,))
  values = values if values.dtype == np.float64 else values.astype(np.float32)
  if not np.isfinite(values).all():
    raise ValueError(f"scores must be finite: {np.count_nonzero(~np.isfinite(values))} are not")
  return values


class Rows(NamedTuple):
  """Vectors made ready for cosines; see `rows`.

  Attributes:
    high: multiples of 2^−26, [n, D] float64.
    low: what is left of the vector, multiples of a smaller power of two.
    squares: of the norms, [n].
  """

  high: Float[np.ndarray, "n D"]
  low: Float[np.ndarray, "n D"]
  squares: Float[np.ndarray, " n"]

  def take(self, chosen: Any) -> "Rows":
    """Some of the vectors, by a slice or by their numbers."""
    return Rows(self.high[chosen], self.low[chosen], self.squares[chosen])

  @property
  def size(self) -> int:
    """How many there are."""
    return len(self.squares)


def rows(name: str, vectors: Any) -> Rows:
  """Splits vectors so that a product of two is the same in whatever order it is summed up.

  A plain product is rounded at every addition, in an order that depends on the shape of the
  matrices: copies of one embedding then have cosines that differ in the last bit, and so have
  (a, b) and (b, a), where a threshold between them would make a difference. Each vector is scaled
  by a power of two to a norm in [½, 1) and split into high + low, both of so few bits that sums of
  their products are exact in float64. high·high + (high·low + low·high) is the product of the
  vectors to about D · 2e-17.

  Raises:
    ValueError: for another shape, a dtype that is no float, or values that are not finite.
  """
  x = host(name, vectors, np.floating, (None, None))
  high, low = np.empty(x.shape, np.float64), np.empty(x.shape, np.float64)
  squares = np.empty(len(x), np.float64)
  # 26 and so many bits more, and √D times 2^−27 at most: 53 bits hold the sum.
  fine = 2.0 ** (52 - math.ceil(math.log2(max(x.shape[1], 1)) / 2))
  for i in range(0, len(x), _ROWS):
    part = slice(i, i + _ROWS)
    block = x[part].astype(np.float64)
    if not np.isfinite(block).all():
      raise ValueError(f"{name} must be finite")
    # In two steps, since squares of what is very large or small leave the range of float64.
    first = np.frexp(np.abs(block).max(1, initial=0.0))[1]
    block = np.ldexp(block, -first[:, None])
    second = np.frexp(np.sqrt((block * block).sum(1)))[1]
    block = np.ldexp(block, -second[:, None])
    high[part] = np.rint(block * _COARSE) / _COARSE
    low[part] = np.rint((block - high[part]) * fine) / fine
    with np.errstate(over="ignore"):  # of a norm near 0: its cosines are 0
      shortest = np.ldexp(MIN_NORM, -(first + second)) ** 2
    own = Rows(high[part], low[part], squares[part])
    squares[part] = np.maximum(_paired_products(own, own), shortest)
  return Rows(high, low, squares)


def of_all(a: Rows, b: Rows) -> Float[np.ndarray, "n m"]:
  """The cosines of each vector of one set with each of another, [n, m]."""
  products = np.hstack([a.high, a.low]) @ np.hstack([b.low, b.high]).T
  products += a.high @ b.high.T
  return _cosines(products, a.squares[:, None] * b.squares)


def of_pairs(a: Rows, b: Rows) -> Float[np.ndarray, " n"]:
  """The cosines of the vectors of the same place, [n]; to the last bit those of `of_all`."""
  return _cosines(_paired_products(a, b), a.squares * b.squares)


def _paired_products(a: Rows, b: Rows) -> np.ndarray:
  cross: np.ndarray = np.einsum("nd,nd->n", a.high, b.low) + np.einsum("nd,nd->n", a.low, b.high)
  cross += np.einsum("nd,nd->n", a.high, b.high)
  return cross


def _cosines(products: np.ndarray, squares: np.ndarray) -> np.ndarray:
  """x·y / (‖x‖ ‖y‖) by the quotient of the squares: what is equal as a fraction is so rounded too.

  Vectors of whole numbers and their multiples, such as (1, 2) and (3, 6), are then tied.
  """
  squared: np.ndarray = products * products
  squared /= squares
  np.minimum(squared, 1.0, out=squared)
  np.copysign(np.sqrt(squared, out=squared), products, out=squared)
  return squared


def thresholds(values: Any, dtype: np.dtype) -> np.ndarray:
  """The largest numbers of `dtype` that are ≤ the values: scores compare with them alike."""
  exact = np.asarray([float(v) for v in np.asarray(values).reshape(-1)], np.float64)
  if not np.isfinite(exact).all():
    raise ValueError(f"a threshold must be a finite number, got {exact[~np.isfinite(exact)][0]}")
  with np.errstate(over="ignore"):
    rounded = exact.astype(dtype)
  return np.where(rounded.astype(np.float64) > exact, just_below(rounded), rounded)


def threshold(value: Any, dtype: np.dtype) -> np.floating:
  """One threshold, as `thresholds` makes it."""
  if np.shape(value):
    raise ValueError(f"threshold must be a scalar, got shape {np.shape(value)}")
  rounded: np.floating = thresholds(value, dtype)[0]
  return rounded


def just_below(values: np.ndarray) -> np.ndarray:
  """The next numbers toward −∞ of the same dtype."""
  with np.errstate(over="ignore"):  # below the least number lies −infinity
    below: np.ndarray = np.nextafter(values, np.array(-np.inf, values.dtype))
  return below
