"""Networks in flax.linen: backbones give features, the head turns them into scores."""

from bce_jax.models.chunked import ChunkedBCE
from bce_jax.models.classifier import Classifier, Outputs
from bce_jax.models.embedding import Embedding
from bce_jax.models.head import BIAS_INITS, WEIGHT_INITS, Head, Scores
from bce_jax.models.projector import Projector
from bce_jax.models.zoo import create, module, names

__all__ = [
  "BIAS_INITS",
  "WEIGHT_INITS",
  "ChunkedBCE",
  "Classifier",
  "Embedding",
  "Head",
  "Outputs",
  "Projector",
  "Scores",
  "create",
  "module",
  "names",
]
