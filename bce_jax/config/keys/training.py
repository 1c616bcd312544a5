"""Keys of the batches, the devices and the length of a run."""

from bce_jax.config.key import NOTHING, POSITIVE, UPDATES, Group, Key

PARALLEL = ("jit", "pmap")

GROUP = Group(
  "Batches, devices, duration",
  {
    "seed": Key(0, UPDATES, "random seed of initial weights, data order and augmentation", least=0),
    "batch_size": Key(128, UPDATES, "images per training step, over all devices", least=1),
    "micro_batches": Key(
      1,
      UPDATES,
      "microbatches that each batch is split into, run one after the other to save memory",
      least=1,
    ),
    "eval_batch_size": Key(256, NOTHING, "images per evaluation step, over all devices", least=1),
    "class_devices": Key(
      1,
      NOTHING,
      "devices that the classifier's rows are split over; the batch is split over the rest",
      least=1,
    ),
    # The two agree to rounding.
    "parallel": Key(
      "jit",
      NOTHING,
      "how a step runs on several devices: jit over a mesh, or pmap, one program per device",
      choices=PARALLEL,
    ),
    # For tables of so many classes that [batch, classes] is too much; of BCE losses, joint or
    # balanced.
    "class_chunk": Key(
      None,
      UPDATES,
      "classes per chunk of the BCE loss, to save memory; 0: chosen for you, none: all at once",
      kind=int,
      least=0,
    ),
    "epochs": Key(100.0, UPDATES, "epochs to train", range=POSITIVE),
    "steps": Key(
      None, UPDATES, "training steps, in place of epochs; none: as epochs says", kind=int, least=1
    ),
  },
)
