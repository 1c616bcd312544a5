#!/bin/bash
# Installs bce_jax on this TPU VM; launch/tpu_pod.py runs it on every worker.
#   bash tpu_install.sh REQUIREMENT PYTHON [SERVER:/SHARE MOUNT_PATH]
# Again is no harm: what is there is kept, the package itself is replaced.
set -euo pipefail
requirement=$1 python=$2 share=${3:-} mount_path=${4:-}
environment=$HOME/bce_jax

# The image's Python may be too old; uv brings its own.
python3 -m pip install --quiet --user --upgrade uv
uv=$HOME/.local/bin/uv
if [[ ! -x $environment/bin/python ]]; then "$uv" venv --python "$python" "$environment"; fi
"$uv" pip install --quiet --python "$environment/bin/python" --reinstall-package bce_jax "$requirement"

if [[ -n $share ]] && ! mountpoint --quiet "$mount_path"; then
  sudo apt-get install --quiet --yes nfs-common
  sudo mkdir -p "$mount_path"
  sudo mount -t nfs "$share" "$mount_path"
fi
"$environment/bin/bce-train" --version
