"""The JobSet, as Kubernetes would read it, and the xpk command."""

import re
import shlex
import subprocess

import pytest
import yaml

SHARED = ("--volume-claim", "nfs", "--mount-path", "/shared")
NAMED = ("--name", "digits", "--image", "repo/bce_jax:tpu")
TPU = (
  *("--tpu-accelerator", "tpu-v6e-slice", "--tpu-topology", "4x4"),
  *("--tpu-chips-per-node", "4"),
)
GPU = ("--gpu-accelerator", "nvidia-h100-80gb", "--gpus-per-node", "8", "--num-nodes", "3")
WORKDIR = ("--workdir", "/shared/run")


@pytest.fixture
def jobset(launch, awkward):
  def make(*options):
    words = (*NAMED, *SHARED, *options, "--dry-run", "--", *awkward, *WORKDIR)
    out = launch("gke.py", *words)
    assert (out.returncode, out.stderr) == (0, "")
    (document,) = yaml.safe_load_all(out.stdout)
    return document

  return make


def job_of(document):
  (workers,) = document["spec"]["replicatedJobs"]
  return workers, workers["template"]["spec"]


def expanded(words, environment):
  """What Kubernetes makes of args: $$ is $, $(NAME) the variable where there is one."""

  def replace(match):
    return "$" if match[0] == "$$" else environment.get(match[1], match[0])

  return [re.sub(r"\$\$|\$\((\w+)\)", replace, word) for word in words]


def test_tpu_slices(jobset, awkward):
  document = jobset(*TPU, "--num-slices", "2", "--spot")
  assert document["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  assert document["kind"] == "JobSet"
  assert document["metadata"]["name"] == "digits"
  annotations = document["metadata"]["annotations"]
  key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
  assert annotations == {key: "cloud.google.com/gke-nodepool"}
  workers, job = job_of(document)
  assert workers["replicas"] == 2
  assert job["parallelism"] == job["completions"] == 4  # 16 chips, 4 on a host
  pod = job["template"]["spec"]
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
    "cloud.google.com/gke-tpu-topology": "4x4",
    "cloud.google.com/gke-spot": "true",
  }
  assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
  (container,) = pod["containers"]
  assert container["image"] == "repo/bce_jax:tpu"
  assert container["command"] == ["bce-train"]
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  words = expanded(container["args"], {"HOME": "/root", "JOB_COMPLETION_INDEX": "1"})
  assert tuple(words) == ("--distributed", *awkward, *WORKDIR)


def test_gpu_nodes(jobset, awkward):
  document = jobset(*GPU)
  workers, job = job_of(document)
  assert document["metadata"]["annotations"] == {}
  assert (workers["replicas"], job["parallelism"], job["completions"]) == (1, 3, 3)
  pod = job["template"]["spec"]
  assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
  assert (pod["hostNetwork"], pod["dnsPolicy"]) == (False, "ClusterFirst")
  (container,) = pod["containers"]
  assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
  words = expanded(container["args"], {"HOME": "/root", "JOB_COMPLETION_INDEX": "1"})
  assert tuple(words) == (
    *("--coordinator", f"digits-{workers['name']}-0-0.digits:8482"),
    *("--num-processes", "3", "--process-id", "1"),
    *awkward,
    *WORKDIR,
  )


@pytest.mark.parametrize("kind", [TPU, GPU])
def test_what_is_started_again(jobset, kind):
  document = jobset(*kind, "--max-restarts", "5", "--grace-seconds", "120")
  policy = document["spec"]["failurePolicy"]
  assert (policy["maxRestarts"], policy["restartStrategy"]) == (5, "BlockingRecreate")
  _, job = job_of(document)
  assert (job["backoffLimit"], job["completionMode"]) == (0, "Indexed")
  pod = job["template"]["spec"]
  assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 120)
  exits, disruption = job["podFailurePolicy"]["rules"]
  (container,) = pod["containers"]
  assert exits["onExitCodes"]["containerName"] == container["name"]
  assert (exits["action"], exits["onExitCodes"]["values"]) == ("FailJob", [2, 143])
  assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]

  def action(message):
    """Of the first rule whose pattern the Job's failure message matches."""
    for rule in policy["rules"]:
      assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
      assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
      if any(re.search(pattern, message) for pattern in rule["onJobFailureMessagePatterns"]):
        return rule["action"]
    return "RestartJobSet"

  ended = "Container bce-train for pod a/digits-workers-0-2 failed with exit code {} matching"
  ended += " FailJob rule at index 0"
  assert action(ended.format(2)) == "FailJobSet"
  assert action(ended.format(143)) == "RestartJobSetAndIgnoreMaxRestarts"
  taken = "Pod a/b has condition DisruptionTarget matching FailJob rule at index 1"
  assert action(taken) == "RestartJobSetAndIgnoreMaxRestarts"
  assert action("Job has reached the specified backoff limit") == "RestartJobSet"


@pytest.mark.parametrize("kind", [TPU, GPU])
def test_the_run_folder_is_shared(jobset, kind):
  _, job = job_of(jobset(*kind))
  pod = job["template"]["spec"]
  (volume,), (container,) = pod["volumes"], pod["containers"]
  assert volume["persistentVolumeClaim"] == {"claimName": "nfs"}
  assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/shared"}]


def test_it_is_given_to_kubectl(launch, stub):
  stub.make("kubectl", reads_stdin=True)
  words = (*NAMED, *SHARED, *TPU, "--context", "c", "--namespace", "n")
  printed = launch("gke.py", "--dry-run", *words, "--", *WORKDIR).stdout
  first, _, text = printed.partition("\n")
  assert first == "# kubectl --context=c --namespace=n apply -f -"
  out = launch("gke.py", *words, "--", *WORKDIR, env=stub.env)
  assert (out.returncode, out.stderr) == (0, "")
  assert stub.notes() == [["kubectl", "--context=c", "--namespace=n", "apply", "-f", "-", text]]
  assert "end:    kubectl --context=c --namespace=n delete jobset digits" in out.stdout


XPK = ("--xpk", *NAMED, "--cluster", "c", "--project", "p", "--zone", "z")


def xpk_options(command):
  """Of `xpk workload create`: each has a value."""
  assert command[:3] == ["xpk", "workload", "create"]
  return dict(zip(command[3::2], command[4::2], strict=True))


def test_xpk_on_tpus(launch, stub, awkward):
  stub.make("xpk")
  one_line = [word for word in awkward if "\n" not in word]
  words = (*XPK, "--tpu-type", "v5litepod-16", "--storage", "nfs", "--", *one_line, *WORKDIR)
  out = launch("gke.py", *words, env=stub.env)
  assert (out.returncode, out.stderr) == (0, "")
  (command,) = stub.notes()
  options = xpk_options(command)
  typed = options.pop("--command")
  assert options == {
    "--cluster": "c",
    "--workload": "digits",
    "--tpu-type": "v5litepod-16",
    "--num-slices": "1",
    "--project": "p",
    "--zone": "z",
    "--docker-image": "repo/bce_jax:tpu",
    "--storage": "nfs",
    "--max-restarts": "20",
    "--restart-on-exit-codes": "1",
    "--termination-grace-period-seconds": "300",
  }
  (script,) = expanded([typed], {"HOME": "/root"})  # xpk makes it a container's command
  assert shlex.split(script) == ["exec", "bce-train", "--distributed", *one_line, *WORKDIR]
  printed = launch("gke.py", "--dry-run", *words).stdout
  stub.forget()
  subprocess.run(["bash", "-c", printed], env=stub.env, check=True)
  assert stub.notes() == [command]


def test_xpk_on_gpus(launch):
  words = (*XPK, "--device-type", "h100-80gb-8", "--num-nodes", "2", "--", "--config=a b", *WORKDIR)
  out = launch("gke.py", "--dry-run", *words)
  options = xpk_options(shlex.split(out.stdout.replace("\\\n", "")))
  assert (options["--device-type"], options["--num-nodes"]) == ("h100-80gb-8", "2")
  assert options["--command"] == (
    "exec bce-train --coordinator $JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT"
    " --num-processes $NNODES --process-id $NODE_RANK '--config=a b' --workdir /shared/run"
  )


@pytest.mark.parametrize(
  ("kind", "word"), [("--tpu-type=v5litepod-16", "a\nb"), ("--device-type=h100-80gb-8", 'a"b')]
)
def test_what_xpk_would_spoil_is_refused(launch, kind, word):
  out = launch("gke.py", "--dry-run", *XPK, kind, "--", "--config", word, *WORKDIR)
  assert out.returncode == 2
  assert "xpk can't hand on" in out.stderr
