"""Several processes as one program: `jax.distributed`, and how it ends when one of them is lost."""

import os
import sys
import time
from typing import NoReturn

import jax

_GRACE_SECONDS = 5


def start(
  coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
  """Joins the processes of a run; before anything asks for a device.

  Args:
    coordinator: HOST:PORT of process 0; None finds everything in the environment (Cloud TPU, GKE,
      SLURM, Open MPI).
    num_processes: of the run.
    process_id: of this one, 0 … num_processes − 1.

  Where the others can't be reached JAX ends this process after five minutes, by an abort.

  Raises:
    ValueError: when the environment tells nothing.
  """
  try:
    jax.distributed.initialize(coordinator, num_processes, process_id)
  except Exception as error:  # jax raises whatever its detection and its sockets do
    reason = " ".join(str(error).split())[:300]
    what = f"--coordinator {coordinator}" if coordinator else "--distributed"
    raise ValueError(f"{what}: the processes of the run can't be joined: {reason}") from error


def lost_another(error: Exception) -> bool:
  """Whether an error says that another process of the run can't be reached."""
  signs = (
    "Gloo",
    "NCCL",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "Connection reset",
    "Connection closed",
  )
  return jax.process_count() > 1 and any(sign in str(error) for sign in signs)


def leave(code: int) -> NoReturn:
  """Ends this process at once, so that the others notice.

  An orderly end would wait for them, while they wait for this one. Without the first process none
  of them can go on, so it gives them time to tell what they found wrong themselves.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  if jax.process_index() == 0:
    time.sleep(_GRACE_SECONDS)
  os._exit(code)
