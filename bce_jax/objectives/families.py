"""The losses that a config can name, each with the options it knows; and losses from outside.

Ours are `LOSSES`, the eight of Li et al., "Rediscovering BCE Loss for Uniform Classification",
arXiv 2403.07289: a row of `TABLE` (bce, soft), n for normalized, u or d for a unified or diverse
bias. A dotted name, "package.module:function", is a loss from outside: a function

  loss(logits, labels, *, bias, scale, margin, negative_weight, smoothing, class_mask, …) -> [batch]

of the similarities c and integer labels. Of the options it takes those it knows, and what it does
not know is refused. One that takes neither bias nor scale gets decision scores z = scale · c − bias
instead. Its other keyword arguments are keys of the group `config.loss_options`.

An image mixed of two, λ and 1 − λ, has the loss λ · loss(c, y) + (1 − λ) · loss(c, y′) [Zhang et
al., "mixup", ICLR 2018]. A loss that knows better has an attribute `mixed`, of the function or of
its module: a function (z, targets, *, class_mask, …) of decision scores and shares of the classes,
float [batch, N], with those of the same keyword arguments that it takes.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bce_jax import extensions, losses
from bce_jax.names import nearest

BIASES = {"u": "unified", "d": "diverse"}
# Options of a loss, and what they are where a loss has none.
NEUTRAL: dict[str, Any] = {
  "margin": 0.0,
  "negative_weight": 1.0,
  "smoothing": 0.0,
  "class_mask": None,
}
_MEANINGS = {
  "margin": "is a margin of the label's similarity",
  "negative_weight": "weighs the negative terms of BCE",
  "smoothing": "smooths the labels",
}
# Keys of `config.loss_options` that every loss from outside has.
OUTSIDE_OPTIONS: dict[str, Any] = {"normalized": False, "bias": "unified"}
OUTSIDE_MEANINGS = {
  "normalized": "whether it takes cosines, multiplied by config.scale, and not wᵀx",
  "bias": "of the classifier: unified, one number, or diverse, one per class",
}


class Joint(NamedTuple):
  """The parts of the name of one of our losses: family, normalized or not, kind of bias.

  Attributes:
    family: "bce" or "soft".
    normalized: whether the similarity is the cosine (n) or wᵀx.
    bias: "unified" (u) or "diverse" (d).
  """

  family: str
  normalized: bool
  bias: str


class LossFamily(NamedTuple):
  """A loss of similarities, and which options it knows.

  Attributes:
    name: as in a config, for messages.
    function: (logits [..., N], labels [...], *, bias, scale, options) → [...].
    options: which of `NEUTRAL` it knows.
    normalized: whether the similarities are cosines, with a scale, or wᵀx.
    bias: "unified" or "diverse".
    mixed: (z, targets, *, class_mask) → [...], its loss of decision scores and mixed targets; None:
      that of the two labels, each by its share.
    needs_all_scores: whether it has no form that looks at some of the classes at a time.
    probabilities: z → what a class' score is as a probability, [..., N] → [..., N].
    outside: whether it is none of this package.
  """

  name: str
  function: Callable[..., jax.Array]
  options: frozenset[str]
  normalized: bool = False
  bias: str = "unified"
  mixed: Callable[..., jax.Array] | None = None
  needs_all_scores: bool = True
  probabilities: Callable[..., jax.Array] = jax.nn.sigmoid
  outside: bool = False

  def __call__(self, logits: Any, labels: Any, *, bias: Any, scale: Any, **options: Any) -> Any:
    """The losses of a batch.

    Raises:
      ValueError: as `refuse_unknown`.
    """
    self.refuse_unknown(**options)
    known = {option: value for option, value in options.items() if option in self.options}
    return self.function(logits, labels, bias=bias, scale=scale, **known)

  def refuse_unknown(self, **options: Any) -> None:
    """Raises ValueError for an option it does not know, unless its value is that of `NEUTRAL`."""
    for option, value in options.items():
      if option not in self.options and not _is_neutral(option, value):
        raise ValueError(
          f"the loss {self.name!r} has no {option}: expected {NEUTRAL[option]}, got {value}"
        )


TABLE: dict[str, LossFamily] = {
  "bce": LossFamily(
    "bce",
    losses.bce,
    frozenset({"margin", "negative_weight", "smoothing", "class_mask"}),
    mixed=losses.mixed_bce,
    needs_all_scores=False,
  ),
  "soft": LossFamily(
    "soft",
    losses.softmax_cross_entropy,
    frozenset({"margin", "smoothing", "class_mask"}),
    mixed=losses.softmax_cross_entropy,
    probabilities=jax.nn.softmax,
  ),
}
LOSSES = tuple(
  f"{family}-{normalized}{bias}"
  for family, normalized, bias in itertools.product(TABLE, ("", "n"), BIASES)
)


def parse(name: str) -> Joint:
  """Splits the name of one of our losses into its parts.

  Args:
    name: one of `LOSSES`.

  Returns:
    `Joint`.

  Raises:
    ValueError: for another name, with the nearest one.

  >>> parse("bce-nu")
  Joint(family='bce', normalized=True, bias='unified')
  """
  if name not in LOSSES:
    raise ValueError(
      f"unknown loss {name!r}; did you mean {nearest(name, LOSSES)!r}?"
      f" expected one of {', '.join(LOSSES)}"
    )
  family, kind = name.split("-")
  return Joint(family, kind.startswith("n"), BIASES[kind[-1]])


def resolve(name: str, loss_options: Mapping[str, Any] | None = None) -> LossFamily:
  """Returns the loss of a name, ours or from outside.

  Args:
    name: one of `LOSSES`, or "package.module:function".
    loss_options: of a loss from outside: `OUTSIDE_OPTIONS` and its own; what lacks is at its
      default.

  Raises:
    ValueError: one line: an unknown name, with the nearest; what can't be imported or is no loss.
  """
  if name in LOSSES:
    ours = parse(name)
    return TABLE[ours.family]._replace(name=name, normalized=ours.normalized, bias=ours.bias)
  return _from_outside(name, module(name), loss_options or {})


def of(config: Any) -> LossFamily:
  """Returns the loss that a config names."""
  return resolve(config.loss, config.get("loss_options"))


def module(name: str) -> extensions.Plugin:
  """Returns the plugin of a loss, ours or from outside.

  Raises:
    ValueError: as `resolve`.
  """
  found = extensions.find(
    "loss",
    name,
    LOSSES,
    lambda own: extensions.own(own, TABLE[parse(own).family].function),
    positional=2,
    given=("bias", "scale", *NEUTRAL),
  )
  if not found.outside:
    return found
  taken = set(OUTSIDE_OPTIONS) & set(found.OPTIONS)
  if taken:
    raise ValueError(
      f"config.loss {name!r} has an argument {min(taken)!r}, which is a key of"
      " config.loss_options already: expected another name"
    )
  return found._replace(
    OPTIONS={**OUTSIDE_OPTIONS, **found.OPTIONS},
    MEANINGS={**OUTSIDE_MEANINGS, **found.MEANINGS},
    check=functools.partial(_check_outside, found.check),
  )


def _check_outside(own: Callable[[Any], None], config: Any) -> None:
  of(config)
  own(config)


def _from_outside(name: str, plugin: extensions.Plugin, given: Mapping[str, Any]) -> LossFamily:
  options = {**plugin.OPTIONS, **given}
  normalized, bias = (options.pop(key) for key in OUTSIDE_OPTIONS)
  if bias not in BIASES.values():
    raise ValueError(
      f"unknown config.loss_options.bias {bias!r}; did you mean"
      f" {nearest(bias, BIASES.values())!r}? expected one of {', '.join(BIASES.values())}"
    )
  taken = extensions.accepted(plugin.create, ("bias", "scale", *NEUTRAL))
  given_apart = taken & {"bias", "scale"}
  if len(given_apart) == 1:
    lacking = ({"bias", "scale"} - given_apart).pop()
    raise ValueError(
      f"config.loss {name!r} takes {given_apart.pop()!r} but not {lacking!r}: expected both (it"
      " gets similarities), or neither (it gets decision scores)"
    )

  def function(logits: jax.Array, labels: jax.Array, *, bias: Any, scale: Any, **known: Any) -> Any:
    if given_apart:
      known |= {"bias": bias, "scale": scale}
    else:
      logits = scale * logits - bias
    said = f"config.loss {name!r}"
    values = extensions.calling(said, plugin.create, logits, labels, **known, **options)
    return _checked(said, values, jnp.shape(labels))

  return LossFamily(
    name,
    function,
    frozenset(taken - {"bias", "scale"}),
    bool(normalized),
    bias,
    mixed=_mixed_from_outside(name, plugin, options),
    outside=True,
  )


def _mixed_from_outside(
  name: str, plugin: extensions.Plugin, options: Mapping[str, Any]
) -> Callable[..., jax.Array] | None:
  """The form for mixed targets of a loss from outside; None where it has none."""
  said = f"config.loss {name!r}"
  module, target = extensions.load(said, name)
  found = getattr(module if plugin.is_module else target, "mixed", None)
  if found is None:
    return None
  said = f"{said}: its 'mixed'"
  if not callable(found):
    raise ValueError(f"{said} is {found!r:.60}: expected a function (z, targets, *, class_mask, …)")
  usual = {"bias": 0.0, "scale": 1.0, **options}
  taken = extensions.accepted(found, ("class_mask", *usual))

  def mixed(z: jax.Array, targets: jax.Array, *, class_mask: Any) -> jax.Array:
    given = {**usual, "class_mask": class_mask}
    if class_mask is not None and "class_mask" not in taken:
      raise ValueError(f"{said} has no class_mask: expected config.objective.class_share 1.0")
    flat = (x.reshape(-1, x.shape[-1]) for x in (z, targets))
    known = {key: value for key, value in given.items() if key in taken}
    values = extensions.calling(said, found, *flat, **known)
    return _checked(said, values, (z.size // z.shape[-1],)).reshape(z.shape[:-1])

  return mixed


def _checked(said: str, values: Any, shape: tuple[int, ...]) -> jax.Array:
  array = isinstance(values, jax.Array)
  if not array or values.shape != shape or not jnp.issubdtype(values.dtype, jnp.floating):
    got = f"{values.dtype} {values.shape}" if array else f"{values!r:.60}"
    raise ValueError(f"{said} returned {got}: expected floating {shape}, one loss per example")
  return values


def check_options(config: Any) -> None:
  """Refuses options in a config that its loss does not have.

  Raises:
    ValueError: one line: the key, its value, what was expected.
  """
  family = of(config)
  for option, meaning in _MEANINGS.items():
    if option not in family.options and config[option] != NEUTRAL[option]:
      raise ValueError(
        f"config.{option} {meaning}, but the loss is {config.loss!r}, which has none: expected"
        f" {NEUTRAL[option]}, got {config[option]}"
      )
  check_class_share(config)
  if config.class_chunk is not None and family.needs_all_scores:
    raise ValueError(
      f"config.class_chunk is {config.class_chunk}, but the loss {config.loss!r} needs all scores"
      " of an example at once: expected none, or a BCE loss"
    )


def check_class_share(config: Any) -> None:
  """Refuses a share of the classes for a loss that looks at all of them.

  Raises:
    ValueError: one line: the key, its value, what was expected.
  """
  share = config.objective.get("class_share", 1.0)
  if share != 1 and "class_mask" not in of(config).options:
    raise ValueError(
      f"config.objective.class_share is {share}, but the loss {config.loss!r} has no class_mask:"
      " expected 1.0"
    )


def _is_neutral(option: str, value: Any) -> bool:
  if option not in NEUTRAL:
    raise TypeError(f"no loss has an option {option!r}: expected one of {', '.join(NEUTRAL)}")
  return value is None if NEUTRAL[option] is None else bool(value == NEUTRAL[option])
