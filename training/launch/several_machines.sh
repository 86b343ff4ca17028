#!/usr/bin/env bash
# Type the same line on every machine; HOST is the name of one of them, as all others reach it:
#   NODES=2 HOST=node0 several_machines.sh RECIPE STORE RUN [options of eo-train pretrain]
# STORE may be a copy on each machine's own disk. RUN must be one folder that all machines see.
set -euo pipefail
recipe=${1:?recipe, see: eo-train recipes} store=${2:?store, see: eo-train prepare} run=${3:?run folder}
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}

exec torchrun --nnodes "${NODES:?number of machines}" --nproc-per-node "$gpus" \
  --rdzv-backend c10d --rdzv-endpoint "${HOST:?one of the machines}:${PORT:-29500}" --rdzv-id "$(basename "$run")" \
  -m eo_backbones_train pretrain "$recipe" --store "$store" --out "$run" --resume "${@:4}"
