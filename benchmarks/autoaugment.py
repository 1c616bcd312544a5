"""Images per second of AutoAugment's policy, on the device against Pillow on the host.

  python benchmarks/autoaugment.py [--batch 128] [--size 32] [--batches 10] [--rounds 10]

Both draw anew for each image. Pillow runs in one thread, image after image, as in one worker of a
loader; the device's side is the jitted policy with all the threads that JAX takes. Each turn is
several batches, as in an epoch: JAX's threads fall asleep while Pillow has its turn.
"""

import argparse
import math
import random
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import PIL
from PIL import Image, ImageEnhance, ImageOps
from timing import measure

from bce_jax.data import autoaugment

FILL = (autoaugment.FILL,) * 3


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
  return image.transform(image.size, Image.Transform.AFFINE, coefficients, fillcolor=FILL)


PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
  "shear_x": lambda image, m: _affine(image, (1, m, 0, 0, 1, 0)),
  "shear_y": lambda image, m: _affine(image, (1, 0, 0, m, 1, 0)),
  "translate_x": lambda image, m: _affine(image, (1, 0, m * image.width, 0, 1, 0)),
  "translate_y": lambda image, m: _affine(image, (1, 0, 0, 0, 1, m * image.height)),
  "rotate": lambda image, m: image.rotate(m, fillcolor=FILL),
  "color": lambda image, m: ImageEnhance.Color(image).enhance(1 + m),
  "contrast": lambda image, m: ImageEnhance.Contrast(image).enhance(1 + m),
  "brightness": lambda image, m: ImageEnhance.Brightness(image).enhance(1 + m),
  "sharpness": lambda image, m: ImageEnhance.Sharpness(image).enhance(1 + m),
  "posterize": lambda image, m: ImageOps.posterize(image, int(m)),
  "solarize": lambda image, m: ImageOps.solarize(image, math.ceil(m)),
  "autocontrast": lambda image, m: ImageOps.autocontrast(image),
  "equalize": lambda image, m: ImageOps.equalize(image),
  "invert": lambda image, m: ImageOps.invert(image),
}


def pillow_policy(generator: random.Random, pixels: np.ndarray) -> np.ndarray:
  """One image through one sub-policy."""
  image = Image.fromarray(pixels)
  for operation, probability, level in generator.choice(autoaugment.POLICY):
    if generator.random() < probability:
      signed = operation in autoaugment.SIGNED and generator.random() < 0.5
      magnitude = autoaugment.MAGNITUDES[operation][level]
      image = PILLOW[operation](image, -magnitude if signed else magnitude)
  return np.asarray(image)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--size", type=int, default=32)
  parser.add_argument("--batches", type=int, default=10)
  parser.add_argument("--rounds", type=int, default=10)
  args = parser.parse_args()

  # Waves of several colors and noise: many levels, none of them everywhere, as in photographs.
  rng = np.random.default_rng(0)
  waves = np.sin(np.linspace(0, 6, args.size))[:, None] * rng.normal(size=(args.batch, 1, 1, 3))
  noise = rng.normal(scale=0.3, size=(args.batch, args.size, args.size, 3))
  images = np.clip(127 + 50 * (waves + noise), 0, 255).astype(np.uint8)

  on_device, generator = jnp.asarray(images), random.Random(0)
  keys = list(jax.random.split(jax.random.key(0), args.batches))
  policy = jax.jit(autoaugment.auto_augment)

  def pillow() -> object:
    return [
      np.stack([pillow_policy(generator, pixels) for pixels in images]) for _ in range(args.batches)
    ]

  seconds = measure(
    {
      "auto_augment, jitted": lambda: [jax.block_until_ready(policy(k, on_device)) for k in keys],
      "Pillow, one thread": pillow,
    },
    args.rounds,
  )
  print(
    f"AutoAugment for CIFAR-10, {args.batch} × {args.size} × {args.size} × 3,"
    f" jax {jax.__version__} on {jax.devices()[0].platform}, Pillow {PIL.__version__}"
  )
  for name, value in seconds.items():
    batch = value / args.batches
    print(f"{name:<24}{1e3 * batch:9.3f} ms per batch{args.batch / batch:12,.0f} images/s")


if __name__ == "__main__":
  main()
