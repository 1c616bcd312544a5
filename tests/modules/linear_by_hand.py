"""BCE of a linear classifier in float64, by all scores, with its derivatives written out."""

import numpy as np
from scipy.special import expit, log_expit


def normalized(v):
  return v / np.linalg.norm(v, axis=-1, keepdims=True)


def through_the_norm(gradient, v):
  """The gradient by v, from that by v / ‖v‖."""
  unit = normalized(v)
  inside = gradient - unit * (gradient * unit).sum(-1, keepdims=True)
  return inside / np.linalg.norm(v, axis=-1, keepdims=True)


def each_and_gradients(operands, labels, cotangent=1.0, *, normalize=False, class_mask=None):
  """Losses [B], and the gradients of Σ cotangent · loss by every operand.

  operands: features, weights, bias, and maybe scale, margin, negative_weight, smoothing. Where
  labels are soft targets [B, N] their gradient is found too. A label out of range has no class.
  """
  p = {"scale": 1.0, "margin": 0.0, "negative_weight": 1.0, "smoothing": 0.0, "bias": 0.0}
  p |= {name: np.asarray(x, np.float64) for name, x in operands.items()}
  x, w, labels = p["features"], p["weights"], np.asarray(labels)
  by_x, by_w = normalize in (True, "features"), normalize in (True, "weights")
  x_hat, w_hat = normalized(x) if by_x else x, normalized(w) if by_w else w
  soft = labels.ndim == 2
  t = np.float64(labels) if soft else np.float64(labels[:, None] == np.arange(len(w)))
  kept = np.ones(t.shape, bool) if class_mask is None else np.broadcast_to(class_mask, t.shape)
  v = np.broadcast_to(cotangent, len(x))[:, None] * kept
  n = np.maximum(kept.sum(-1, keepdims=True), 1)

  c = x_hat @ w_hat.T - p["margin"] * t
  z = p["scale"] * c - p["bias"]
  positive, negative = -log_expit(z), -log_expit(-z)
  epsilon, weight = p["smoothing"], p["negative_weight"]
  plain = t * positive + weight * (1 - t) * negative
  uniform = (positive + (n - 1) * negative) / n
  each = (kept * ((1 - epsilon) * plain + epsilon * uniform)).sum(-1)

  of_positive = (1 - epsilon) * t + epsilon / n
  of_negative = (1 - epsilon) * weight * (1 - t) + epsilon * (n - 1) / n
  by_z = v * (of_negative * expit(z) - of_positive * expit(-z))
  by_c = p["scale"] * by_z
  features, weights = by_c @ w_hat, by_c.T @ x_hat
  gradients = {
    "features": through_the_norm(features, x) if by_x else features,
    "weights": through_the_norm(weights, w) if by_w else weights,
    "bias": -by_z.sum(0) if np.ndim(p["bias"]) else -by_z.sum(),
    "scale": (by_z * c).sum(),
    "margin": -(by_c * t).sum(),
    "negative_weight": (v * (1 - epsilon) * (1 - t) * negative).sum(),
    "smoothing": (v * (uniform - plain)).sum(),
  }
  gradients = {name: gradients[name] for name in operands if name in gradients}
  if soft:
    gradients["labels"] = v * (1 - epsilon) * (positive - weight * negative)
  return each, gradients


def mean_and_gradients(operands, labels, **options):
  """The mean of v · loss, v the operand example_weights, and its gradients."""
  operands = dict(operands)
  batch = len(operands["features"])
  v = np.float64(operands.pop("example_weights", np.ones(batch)))
  each, gradients = each_and_gradients(operands, labels, v / batch, **options)
  return np.sum(v * each) / batch, gradients | {"example_weights": each / batch}
