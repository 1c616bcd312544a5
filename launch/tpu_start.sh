#!/bin/bash
# Starts bce-train on this TPU VM as a service of systemd; launch/tpu_pod.py runs it on every worker.
#   bash tpu_start.sh MAX_RESTARTS GRACE_SECONDS PROGRAM ARGUMENT…
# A service outlives the ssh session, and gets SIGTERM when the machine is shut down. It is started
# again when it fails, except when something given is wrong (2) or it was asked to end (143).
set -euo pipefail
max_restarts=$1 grace=$2
shift 2
unit=bce-train log=$HOME/bce-train.log script=$HOME/bce-train.sh

state=$(systemctl show --property=ActiveState --value "$unit")
if [[ $state != inactive && $state != failed ]]; then
  echo "$(hostname): $unit is $state already: stop it first" >&2
  exit 2
fi
sudo systemctl reset-failed "$unit" 2>/dev/null || true

# In a file, since systemd replaces $NAME in a command that is given to it.
printf '#!/bin/bash\nexec' >"$script"
printf ' %q' "$@" >>"$script"
echo >>"$script"

sudo systemd-run --quiet --unit="$unit" --uid="$(id -u)" --gid="$(id -g)" \
  --working-directory="$HOME" --setenv=HOME="$HOME" --setenv=PYTHONUNBUFFERED=1 \
  --property=KillMode=mixed --property=TimeoutStopSec="$grace" \
  --property=SuccessExitStatus=143 --property="RestartPreventExitStatus=2 143" \
  --property=Restart=on-failure --property=RestartSec=30 \
  --property=StartLimitIntervalSec=1d --property=StartLimitBurst=$((max_restarts + 1)) \
  --property=StandardOutput=append:"$log" --property=StandardError=append:"$log" \
  /bin/bash "$script"
echo "$(hostname): started, log in $log"
