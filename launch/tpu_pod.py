"""Runs bce-train on a Cloud TPU slice with gcloud: create it, install, start on all hosts, follow.

  python launch/tpu_pod.py create install start follow --name pod --zone us-central2-b \\
    --accelerator-type v5litepod-16 --spot --queued-resource \\
    --nfs 10.0.0.2:/share --mount-path /mnt/share -- --config digits --workdir /mnt/share/digits
  python launch/tpu_pod.py status --name pod --zone us-central2-b
  python launch/tpu_pod.py stop delete --name pod --zone us-central2-b --queued-resource

The actions, one or several in this order or another:
  create   the slice: at once, or with --queued-resource through the queue, and waits for it
  install  this checkout (or --package) into ~/bce_jax on every host, and mounts --nfs
  start    on every host a service that outlives the ssh session, log in ~/bce-train.log
  follow   the log of the first host, which prints for all; Ctrl-C leaves the run alone
  status   of the slice, and on every host the service and its last lines
  stop     SIGTERM: the run saves a checkpoint; start goes on from it
  delete   the slice, after gcloud has asked

For TPU v6e and older: Google develops the Cloud TPU API no further and newer TPUs have none; use
launch/gke.py there. --dry-run prints a shell script of all that would be run.
"""

import argparse
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import launcher

# https://docs.cloud.google.com/tpu/docs/runtimes
_RUNTIMES = {"v6e": "v2-alpha-tpuv6e", "v5p": "v2-alpha-tpuv5", "v5litepod": "v2-alpha-tpuv5-lite"}
_OLDER_RUNTIME = "tpu-ubuntu2204-base"
_POLL_SECONDS = 30
_ROOT = launcher.HERE.parent
_PROGRAM = "bce_jax/bin/bce-train"  # below the home folder


class Step(NamedTuple):
  """A command to be run.

  Attributes:
    purpose: of it, in words.
    command: its words.
    until_active: asked again and again, until it says ACTIVE.
  """

  purpose: str
  command: list[str]
  until_active: bool = False


def _gcloud(args: argparse.Namespace, group: str, verb: str, *words: str) -> list[str]:
  where = [f"--zone={args.zone}"]
  if args.project:
    where.append(f"--project={args.project}")
  return ["gcloud", "compute", "tpus", group, verb, *words, *where]


def _ssh(args: argparse.Namespace, worker: str, command: str) -> list[str]:
  internal = ["--internal-ip"] if args.internal_ip else []
  return _gcloud(
    args, "tpu-vm", "ssh", args.name, f"--worker={worker}", *internal, f"--command={command}"
  )


def _copy(args: argparse.Namespace, files: Sequence[str]) -> list[str]:
  internal = ["--internal-ip"] if args.internal_ip else []
  return _gcloud(args, "tpu-vm", "scp", *files, f"{args.name}:", "--worker=all", *internal)


def _create(args: argparse.Namespace) -> Iterator[Step]:
  version = args.runtime_version
  if version is None:
    version = _RUNTIMES.get(args.accelerator_type.partition("-")[0], _OLDER_RUNTIME)
  kind = [f"--accelerator-type={args.accelerator_type}"]
  spot = ["--spot"] if args.spot else []
  network = [f"--network={args.network}"] if args.network else []
  if not args.queued_resource:
    words = [args.name, *kind, f"--version={version}", *spot, *network]
    yield Step("create the slice", _gcloud(args, "tpu-vm", "create", *words))
    return
  words = [args.name, f"--node-id={args.name}", *kind, f"--runtime-version={version}"]
  words += [*spot, *network, "--async"]
  yield Step("ask for the slice", _gcloud(args, "queued-resources", "create", *words))
  yield Step("wait until it is ACTIVE", _state(args), until_active=True)


def _state(args: argparse.Namespace) -> list[str]:
  return _gcloud(args, "queued-resources", "describe", args.name, "--format=value(state.state)")


def _wheel() -> str:
  text = (_ROOT / "bce_jax" / "__init__.py").read_text()  # without importing it
  [version] = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
  return f"bce_jax-{version}-py3-none-any.whl"


def _install(args: argparse.Namespace, folder: str) -> Iterator[Step]:
  files, requirement = [str(launcher.HERE / "tpu_install.sh")], args.package
  if requirement is None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    yield Step("build the package", [*build, str(_ROOT)])
    files.append(str(pathlib.PurePath(folder) / _wheel()))
    requirement = f"./{_wheel()}[tpu]"
  yield Step("copy it to every host", _copy(args, files))
  words = ["bash", "tpu_install.sh", requirement, args.python]
  words += [args.nfs, args.mount_path] if args.nfs else []
  yield Step("install it on every host", _ssh(args, "all", shlex.join(words)))


def _start(args: argparse.Namespace, training: Sequence[str]) -> Iterator[Step]:
  starter = str(launcher.HERE / "tpu_start.sh")
  yield Step("copy the starter to every host", _copy(args, [starter]))
  words = ["bash", "tpu_start.sh", str(args.max_restarts), str(args.grace_seconds)]
  words += [_PROGRAM, "--distributed", *training]
  yield Step("start on every host", _ssh(args, "all", shlex.join(words)))


def _follow(args: argparse.Namespace) -> Iterator[Step]:
  command = "tail --lines=+1 -F bce-train.log"
  yield Step("follow the first host's log", _ssh(args, "0", command))


def _status(args: argparse.Namespace) -> Iterator[Step]:
  if args.queued_resource:
    yield Step("the queue", _state(args))
  describe = ["describe", args.name, "--format=value(state,health)"]
  yield Step("the slice", _gcloud(args, "tpu-vm", *describe))
  command = "systemctl show --property=ActiveState,SubState,NRestarts bce-train;"
  command += " sudo journalctl --unit=bce-train --lines=3 --no-pager --output=cat;"
  command += " tail --lines=2 bce-train.log"
  yield Step("every host", _ssh(args, "all", command))


def _stop(args: argparse.Namespace) -> Iterator[Step]:
  # Without a service there is nothing to stop.
  command = "sudo systemctl stop bce-train || true"
  yield Step("SIGTERM on every host", _ssh(args, "all", command))


def _delete(args: argparse.Namespace) -> Iterator[Step]:
  if args.queued_resource:
    words = ["queued-resources", "delete", args.name, "--force"]  # the slice in it, too
  else:
    words = ["tpu-vm", "delete", args.name]
  yield Step("delete the slice", _gcloud(args, *words))


def steps(args: argparse.Namespace, training: Sequence[str], folder: str) -> list[Step]:
  """Lists what the actions do; `folder` is for what is built here."""
  actions: dict[str, Callable[[], Iterator[Step]]] = {
    "create": lambda: _create(args),
    "install": lambda: _install(args, folder),
    "start": lambda: _start(args, training),
    "follow": lambda: _follow(args),
    "status": lambda: _status(args),
    "stop": lambda: _stop(args),
    "delete": lambda: _delete(args),
  }
  return [step for action in args.actions for step in actions[action]()]


def _wait_until_active(command: Sequence[str]) -> None:
  """Asks until the queue has given out the slice.

  Raises:
    CommandError: when it never will, or gcloud fails.
  """
  while True:
    asked = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    state = asked.stdout.strip()
    if asked.returncode or state in ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING"):
      raise launcher.CommandError(f"no slice: {state or shlex.join(command)}; delete, and create")
    print(f"the queued resource is {state}", flush=True)
    if state == "ACTIVE":
      return
    time.sleep(_POLL_SECONDS)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = launcher.parser("tpu_pod.py", __doc__)
  parser.usage = "python launch/tpu_pod.py ACTION… [options] -- --config CONFIG --workdir DIR …"
  actions = ("create", "install", "start", "follow", "status", "stop", "delete")
  parser.add_argument("actions", metavar="ACTION", nargs="+", choices=actions, help="see below")
  name = launcher.pattern(r"[a-z]([-a-z0-9]*[a-z0-9])?", "a to z, 0 to 9 and -, a letter first")
  parser.add_argument("--name", required=True, type=name, help="of the TPU")
  parser.add_argument("--zone", required=True)
  parser.add_argument("--project", help="(gcloud's own)")
  parser.add_argument(
    "--accelerator-type",
    metavar="TYPE",
    type=launcher.pattern(r"v[2-6]\w*-\d+", "generation-size, as v5litepod-16"),
    help="as v5litepod-16",
  )
  parser.add_argument("--runtime-version", metavar="VERSION", help="(what fits the generation)")
  parser.add_argument("--queued-resource", action="store_true", help="through the queue")
  parser.add_argument("--spot", action="store_true", help="a Spot slice: may be taken away")
  parser.add_argument("--network", help="(default)")
  parser.add_argument("--internal-ip", action="store_true", help="ssh to the internal address")
  parser.add_argument(
    "--package", metavar="REQUIREMENT", help="as of pip, instead of this checkout; with [tpu]"
  )
  parser.add_argument("--python", metavar="VERSION", default="3.12", help="(%(default)s)")
  parser.add_argument(
    "--nfs",
    metavar="SERVER:/SHARE",
    type=launcher.pattern(r"[\w.-]+:/\S*", "SERVER:/SHARE"),
    help="storage that all hosts see",
  )
  parser.add_argument(
    "--mount-path",
    metavar="DIR",
    type=launcher.pattern(r"/\S+", "an absolute path"),
    help="where they see it",
  )
  parser.add_argument(
    "--max-restarts",
    metavar="N",
    type=launcher.whole_number(0),
    default=20,
    help="in a day, after failures (%(default)s)",
  )
  parser.add_argument(
    "--grace-seconds",
    metavar="S",
    type=launcher.whole_number(1),
    default=300,
    help="between SIGTERM and SIGKILL (%(default)s; a Spot slice gives less)",
  )
  args = parser.parse_intermixed_args(argv)  # actions anywhere among the options
  if "create" in args.actions and not args.accelerator_type:
    raise ValueError("create needs --accelerator-type, as v5litepod-16")
  if args.nfs and not args.mount_path:
    raise ValueError("--nfs needs --mount-path")
  return args


def run(argv: Sequence[str]) -> int:
  """Does what the arguments say; returns the exit code.

  Raises:
    ValueError: one line, for anything given that is wrong.
  """
  options, training = launcher.split(argv)
  args = _parse(options)
  if "start" in args.actions:
    launcher.shared_workdir_of(training, args.mount_path)
  if args.dry_run:
    print("set -e")
    for step in steps(args, training, "dist"):
      repeated = f" (asked every {_POLL_SECONDS} s)" if step.until_active else ""
      print(f"# {step.purpose}{repeated}\n{launcher.shell(step.command)}")
    return 0
  launcher.need("gcloud", "https://docs.cloud.google.com/sdk/docs/install")
  with tempfile.TemporaryDirectory() as folder:
    for step in steps(args, training, folder):
      print(f"{step.purpose} …", flush=True)
      if step.until_active:
        _wait_until_active(step.command)
      else:
        launcher.run(step.command)
  return 0


if __name__ == "__main__":
  sys.exit(launcher.console("tpu_pod.py", run, None))
