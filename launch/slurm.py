"""Starts one run on a SLURM cluster: makes an sbatch script, and submits it.

  python launch/slurm.py --partition gpu --nodes 4 --gpus-per-node 8 --time 24:00:00 \\
    --setup 'source /shared/bce_jax/bin/activate' -- --config digits --workdir /shared/runs/digits

Options have the names that sbatch gives them. JAX wants one process a GPU on SLURM, so there are
as many tasks a node as GPUs; on CPU nodes one. --signal-seconds before the time limit, and when it
is preempted, the run gets SIGTERM, saves a checkpoint, and the job is queued again; so is a job
that failed, up to --max-restarts times in all. --dry-run prints the script: keep it, edit it, give
it to sbatch. Nothing on the way rewrites what is behind --.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

import launcher

_PLAIN = launcher.pattern(r"[^\s'\"\\#$`]+", "a word without spaces, quotes, \\, #, $ and `")
_OPTION = launcher.pattern(
  r"--[a-z][a-z-]*(=[^\s'\"\\#$`]+)?", "--name or --name=value as of sbatch, without spaces"
)


def _tasks_per_node(args: argparse.Namespace) -> int:
  """As many as GPUs, since that is what JAX takes each task for."""
  if args.gpus_per_node is None:
    return args.ntasks_per_node or 1
  gpus = int(args.gpus_per_node.rpartition(":")[2])
  if args.ntasks_per_node not in (None, gpus):
    raise ValueError(
      f"--ntasks-per-node {args.ntasks_per_node}: on SLURM, JAX gives each task one GPU, expected"
      f" {gpus} as --gpus-per-node {args.gpus_per_node}"
    )
  return gpus


def script(args: argparse.Namespace, training: Sequence[str]) -> str:
  """The batch script.

  Raises:
    ValueError: for options that don't go together.
  """
  options = {
    "job-name": args.job_name,
    "nodes": args.nodes,
    "ntasks-per-node": _tasks_per_node(args),
    "gpus-per-node": args.gpus_per_node,
    "cpus-per-task": args.cpus_per_task,
    "mem": args.mem,
    "time": args.time,
    "partition": args.partition,
    "account": args.account,
    "qos": args.qos,
    "output": args.output,
    "open-mode": "append",  # what it printed before it was queued again stays
    "signal": f"TERM@{args.signal_seconds}",
  }
  header = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
  header += ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in args.sbatch_option)]
  values = {
    "header": "\n".join(header),
    "setup": "\n".join(args.setup) or ": # --setup was not given",
    "command": shlex.join([*args.program, "--distributed", *training]),
    "max_restarts": str(args.max_restarts),
    "wait_seconds": str(args.wait_seconds),
  }
  return launcher.fill("slurm.sbatch", values)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = launcher.parser("slurm.py", __doc__)
  one = launcher.whole_number(1)
  parser.add_argument("--nodes", metavar="N", type=one, default=1)
  parser.add_argument(
    "--gpus-per-node",
    metavar="[TYPE:]N",
    type=launcher.pattern(r"([\w.-]+:)?[1-9]\d*", "a number of GPUs, or TYPE:number"),
  )
  parser.add_argument("--ntasks-per-node", metavar="N", type=one, help="processes (one a GPU)")
  parser.add_argument("--cpus-per-task", metavar="N", type=one)
  for name in ("mem", "time", "partition", "account", "qos"):
    parser.add_argument(f"--{name}", type=_PLAIN)
  parser.add_argument("--job-name", type=_PLAIN, default="bce-train")
  parser.add_argument(
    "--output", metavar="FILE", type=_PLAIN, default="bce-train-%j.out", help="log (%(default)s)"
  )
  parser.add_argument(
    "--signal-seconds",
    metavar="S",
    type=one,
    default=180,
    help="SIGTERM so long before the time limit (%(default)s)",
  )
  parser.add_argument(
    "--wait-seconds",
    metavar="S",
    type=one,
    default=150,
    help="after a process has ended, the others are ended (%(default)s)",
  )
  parser.add_argument(
    "--max-restarts", metavar="N", type=launcher.whole_number(0), default=20, help="(%(default)s)"
  )
  parser.add_argument(
    "--setup", metavar="LINE", action="append", default=[], help="shell line before; repeatable"
  )
  parser.add_argument(
    "--sbatch-option",
    metavar="--NAME=VALUE",
    type=_OPTION,
    action="append",
    default=[],
    help="any other option of sbatch, as --sbatch-option=--constraint=a100; repeatable",
  )
  parser.add_argument(
    "--program", metavar="COMMAND", type=shlex.split, default=["bce-train"], help="(bce-train)"
  )
  args = parser.parse_args(argv)
  if not args.program:
    raise ValueError("--program is empty: expected a command")
  return args


def run(argv: Sequence[str]) -> int:
  """Does what the arguments say; returns the exit code.

  Raises:
    ValueError: one line, for anything given that is wrong.
  """
  options, training = launcher.split(argv)
  args = _parse(options)
  launcher.workdir_of(training)
  text = script(args, training)
  if args.dry_run:
    print(text, end="")
    return 0
  launcher.need("sbatch", "it comes with SLURM, on a login node")
  launcher.run(["sbatch"], stdin=text)
  return 0


if __name__ == "__main__":
  sys.exit(launcher.console("slurm.py", run, None))
