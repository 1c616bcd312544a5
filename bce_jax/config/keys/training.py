"""Keys of the batches, the devices and the length of a run."""

from bce_jax.config.key import NOTHING, POSITIVE, UPDATES, Group, Key

PARALLEL = ("jit", "pmap")

GROUP = Group(
  "Batches, devices, duration",
  {
    "seed": Key(
      0, UPDATES, "of the run: initial weights, data order and augmentation follow from it", least=0
    ),
    "batch_size": Key(128, UPDATES, "images of one update, on all devices", least=1),
    "micro_batches": Key(
      1,
      UPDATES,
      "parts that a batch is run in, one after the other, to need less memory; one update for all",
      least=1,
    ),
    "eval_batch_size": Key(256, NOTHING, "images of one evaluation step, on all devices", least=1),
    "class_devices": Key(
      1,
      NOTHING,
      "devices that share the classifier's rows; the batch is split over the others",
      least=1,
    ),
    # The two agree to rounding.
    "parallel": Key(
      "jit",
      NOTHING,
      "how a step runs on the devices: jit over a mesh, or pmap, a program per device",
      choices=PARALLEL,
    ),
    # For tables of so many classes that [batch, classes] is too much; of BCE losses, joint or
    # balanced.
    "class_chunk": Key(
      None,
      UPDATES,
      "classes whose scores exist at one time in training; 0: chosen, none: all of them",
      kind=int,
      least=0,
    ),
    "epochs": Key(100.0, UPDATES, "how long to train", range=POSITIVE),
    "steps": Key(
      None, UPDATES, "how many updates to train; counts instead of epochs", kind=int, least=1
    ),
  },
)
