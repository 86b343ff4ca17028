#!/usr/bin/env bash
# All GPUs of one machine:  GPUS=4 one_machine.sh RECIPE STORE RUN [options of eo-train pretrain]
# Started again after an interruption, it continues; started on a finished run, it does nothing.
set -euo pipefail
recipe=${1:?recipe, see: eo-train recipes} store=${2:?store, see: eo-train prepare} run=${3:?run folder}
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}

exec torchrun --standalone --nproc-per-node "$gpus" \
  -m eo_backbones_train pretrain "$recipe" --store "$store" --out "$run" --resume "${@:4}"
