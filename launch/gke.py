"""Starts one run on GKE: makes a JobSet manifest, and applies it; or calls xpk.

  python launch/gke.py --name digits --image IMAGE --tpu-accelerator tpu-v6e-slice \\
    --tpu-topology 4x4 --tpu-chips-per-node 4 --volume-claim shared --mount-path /shared -- \\
    --config digits --workdir /shared/runs/digits
  python launch/gke.py --name digits --image IMAGE --gpu-accelerator nvidia-h100-80gb \\
    --num-nodes 2 --gpus-per-node 8 --volume-claim shared --mount-path /shared -- …
  python launch/gke.py --xpk --cluster CLUSTER --name digits --image IMAGE \\
    --tpu-type v5litepod-16 --storage shared -- …

launch/Dockerfile makes the image. When a process is lost, all are started again and go on from
the newest checkpoint: --max-restarts times, not counting pods that were preempted or evicted; not
at all when something given is wrong. --dry-run prints the manifest, or the xpk command.
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import launcher

_NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"
_PORT = 8482  # of the coordinator; the one that JAX takes on TPUs

# What each of the two ways needs, and may be given.
_TPU = ("tpu_accelerator", "tpu_topology", "tpu_chips_per_node")
_GPU = ("gpu_accelerator", "gpus_per_node")


def _yaml(value: Any) -> str:
  """JSON on one line, which is YAML too."""
  return json.dumps(value, ensure_ascii=False)


def literal(word: str) -> str:
  """A word that Kubernetes hands on as it is: $(NAME) would be replaced, $$ is one $."""
  return word.replace("$", "$$")


def _hosts(args: argparse.Namespace) -> int:
  """Of a slice, or of GPUs."""
  if args.gpu_accelerator:
    return int(args.num_nodes)
  chips = math.prod(int(side) for side in args.tpu_topology.split("x"))
  if chips % args.tpu_chips_per_node:
    raise ValueError(
      f"--tpu-topology {args.tpu_topology} has {chips} chips: expected a multiple of"
      f" --tpu-chips-per-node {args.tpu_chips_per_node}"
    )
  return chips // args.tpu_chips_per_node


def manifest(args: argparse.Namespace, training: Sequence[str]) -> str:
  """The JobSet.

  Raises:
    ValueError: for a topology that no number of nodes has.
  """
  hosts, tpu = _hosts(args), bool(args.tpu_accelerator)
  if tpu:
    selector = {
      "cloud.google.com/gke-tpu-accelerator": args.tpu_accelerator,
      "cloud.google.com/gke-tpu-topology": args.tpu_topology,
    }
    limits = {"google.com/tpu": args.tpu_chips_per_node}
    where = ["--distributed"]  # GKE tells each TPU pod its number and its peers
  else:
    selector = {"cloud.google.com/gke-accelerator": args.gpu_accelerator}
    limits = {"nvidia.com/gpu": args.gpus_per_node}
    # Told, so that no pod needs the right to ask the Kubernetes API who its peers are.
    where = ["--coordinator", f"{args.name}-workers-0-0.{args.name}:{_PORT}"]
    where += ["--num-processes", str(hosts), "--process-id", "$(JOB_COMPLETION_INDEX)"]
  if args.spot:
    selector["cloud.google.com/gke-spot"] = "true"
  claim = {"persistentVolumeClaim": {"claimName": args.volume_claim}}
  values = {
    "name": args.name,
    "annotations": _yaml(
      # All pods of a slice on the nodes of one slice.
      {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
      if tpu
      else {}
    ),
    "max_restarts": str(args.max_restarts),
    "slices": str(args.num_slices),
    "hosts": str(hosts),
    "grace_seconds": str(args.grace_seconds),
    "node_selector": _yaml(selector),
    "host_network": _yaml(tpu),
    "dns_policy": "ClusterFirstWithHostNet" if tpu else "ClusterFirst",
    "image": _yaml(args.image),
    "command": _yaml([literal(word) for word in args.program]),
    "args": _yaml([*where, *(literal(word) for word in training)]),
    "limits": _yaml(limits),
    "volume_mounts": _yaml([{"name": "shared", "mountPath": args.mount_path}]),
    "volumes": _yaml([{"name": "shared", **claim}]),
  }
  return launcher.fill("jobset.yaml", values)


def xpk_command(args: argparse.Namespace, training: Sequence[str]) -> list[str]:
  """The equivalent `xpk workload create`.

  Raises:
    ValueError: for arguments that xpk can't hand on.
  """
  # xpk puts the command into a shell script inside a manifest.
  awkward = "\n" if args.tpu_type else '\n"\\'
  for word in training:
    if any(character in word for character in awkward):
      raise ValueError(f"{word!r} behind --: xpk can't hand on {awkward!r}; leave --xpk away")
  if args.tpu_type:
    where = "--distributed"
  else:  # variables that xpk sets in GPU pods
    where = "--coordinator $JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT"
    where += " --num-processes $NNODES --process-id $NODE_RANK"
  program, words = literal(shlex.join(args.program)), literal(shlex.join(training))
  command = ["xpk", "workload", "create", "--cluster", args.cluster, "--workload", args.name]
  if args.tpu_type:
    command += ["--tpu-type", args.tpu_type, "--num-slices", str(args.num_slices)]
  else:
    command += ["--device-type", args.device_type, "--num-nodes", str(args.num_nodes)]
  for name in ("project", "zone"):
    if getattr(args, name):
      command += [f"--{name}", getattr(args, name)]
  command += ["--docker-image", args.image]
  command += [word for storage in args.storage for word in ("--storage", storage)]
  command += ["--max-restarts", str(args.max_restarts)]
  command += ["--restart-on-exit-codes", "1"]  # beside its own: 42 and 127 to 255
  command += ["--termination-grace-period-seconds", str(args.grace_seconds)]
  command += ["--spot"] if args.spot else []
  return [*command, "--command", f"exec {program} {where} {words}"]  # exec: SIGTERM reaches it


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = launcher.parser("gke.py", __doc__)
  one = launcher.whole_number(1)
  parser.add_argument(
    "--name",
    required=True,
    type=launcher.pattern(_NAME, "up to 40 of a to z, 0 to 9 and -, a letter first"),
    help="of the JobSet or workload",
  )
  parser.add_argument("--image", required=True, help="container image with bce_jax")
  parser.add_argument("--num-slices", metavar="N", type=one, default=1, help="TPU slices (1)")
  parser.add_argument("--num-nodes", metavar="N", type=one, default=1, help="GPU nodes (1)")
  parser.add_argument("--spot", action="store_true", help="on Spot nodes")
  parser.add_argument(
    "--max-restarts", metavar="N", type=launcher.whole_number(0), default=20, help="(%(default)s)"
  )
  parser.add_argument(
    "--grace-seconds",
    metavar="S",
    type=one,
    default=300,
    help="between SIGTERM and SIGKILL (%(default)s; Spot nodes give less)",
  )
  parser.add_argument(
    "--program", metavar="COMMAND", type=shlex.split, default=["bce-train"], help="(bce-train)"
  )
  tpu = parser.add_argument_group("a JobSet on TPUs")
  tpu.add_argument("--tpu-accelerator", metavar="TYPE", help="node label, as tpu-v6e-slice")
  tpu.add_argument(
    "--tpu-topology",
    metavar="AxB[xC]",
    type=launcher.pattern(r"[1-9]\d*x[1-9]\d*(x[1-9]\d*)?", "AxB or AxBxC, as 4x4"),
  )
  tpu.add_argument("--tpu-chips-per-node", metavar="N", type=one, help="as 4")
  gpu = parser.add_argument_group("a JobSet on GPUs")
  gpu.add_argument("--gpu-accelerator", metavar="TYPE", help="node label, as nvidia-h100-80gb")
  gpu.add_argument("--gpus-per-node", metavar="N", type=one)
  shared = parser.add_argument_group("a JobSet's shared storage and cluster")
  shared.add_argument("--volume-claim", metavar="NAME", help="a claim that all nodes can write")
  shared.add_argument("--mount-path", metavar="DIR", help="where the pods see it")
  shared.add_argument("--namespace", metavar="NAME", help="as of kubectl")
  shared.add_argument("--context", metavar="NAME", help="as of kubectl")
  xpk = parser.add_argument_group("xpk")
  xpk.add_argument("--xpk", action="store_true", help="call xpk instead of kubectl")
  for name in ("cluster", "project", "zone"):
    xpk.add_argument(f"--{name}", help="as of xpk")
  kind = xpk.add_mutually_exclusive_group()
  kind.add_argument("--tpu-type", metavar="TYPE", help="as v5litepod-16")
  kind.add_argument("--device-type", metavar="TYPE", help="of GPUs, as h100-80gb-8")
  xpk.add_argument("--storage", metavar="NAME", action="append", default=[], help="as of xpk")
  args = parser.parse_args(argv)
  _check(args)
  return args


def _check(args: argparse.Namespace) -> None:
  """Refuses options that are missing, or of the other way."""

  def given(*names: str) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]

  def want(names: Sequence[str], what: str, why: str = "") -> None:
    missing = [name for name in names if not getattr(args, name)]
    if missing:
      raise ValueError(f"{what} needs --{missing[0].replace('_', '-')}{why}")

  if not args.program:
    raise ValueError("--program is empty: expected a command")
  if args.xpk:
    wrong = given(*_TPU, *_GPU, "volume_claim", "mount_path", "namespace", "context")
    if wrong:
      raise ValueError(f"{wrong[0]} is for a JobSet, not for --xpk")
    want(["cluster"], "--xpk")
    if not (args.tpu_type or args.device_type):
      raise ValueError("--xpk needs --tpu-type or --device-type")
    return
  wrong = given("cluster", "project", "zone", "tpu_type", "device_type", "storage")
  if wrong:
    raise ValueError(f"{wrong[0]} goes with --xpk only; kubectl knows the cluster by --context")
  if bool(given(*_TPU)) == bool(given(*_GPU)):
    raise ValueError(
      "expected either --tpu-accelerator or --gpu-accelerator, and what belongs to it"
    )
  want(_TPU if given(*_TPU) else _GPU, "a JobSet on these nodes")
  if given(*_TPU) and args.num_nodes > 1:
    raise ValueError("--num-nodes is for GPUs: the nodes of a slice follow from --tpu-topology")
  if given(*_GPU) and args.num_slices > 1:
    raise ValueError("--num-slices is for TPUs")
  why = ": all nodes must see the run folder"
  want(["volume_claim", "mount_path"], "a JobSet", why)


def run(argv: Sequence[str]) -> int:
  """Does what the arguments say; returns the exit code.

  Raises:
    ValueError: one line, for anything given that is wrong.
  """
  options, training = launcher.split(argv)
  args = _parse(options)
  launcher.shared_workdir_of(training, args.mount_path)
  if args.xpk:
    command = xpk_command(args, training)
    if args.dry_run:
      print(launcher.shell(command))
      return 0
    launcher.need("xpk", "pip install xpk")
    launcher.run(command)
    return 0
  text = manifest(args, training)
  command = ["kubectl"]
  for name in ("context", "namespace"):
    command += [f"--{name}={getattr(args, name)}"] if getattr(args, name) else []
  apply = [*command, "apply", "-f", "-"]
  if args.dry_run:
    print(f"# {shlex.join(apply)}\n{text}", end="")
    return 0
  launcher.need("kubectl", "https://kubernetes.io/docs/tasks/tools/")
  launcher.run(apply, stdin=text)
  first = f"jobset.sigs.k8s.io/jobset-name={args.name},jobset.sigs.k8s.io/job-index=0"
  first += ",batch.kubernetes.io/job-completion-index=0"
  print(f"follow: {shlex.join([*command, 'logs', '--follow', '--selector', first])}")
  print(f"end:    {shlex.join([*command, 'delete', 'jobset', args.name])}")
  return 0


if __name__ == "__main__":
  sys.exit(launcher.console("gke.py", run, None))
