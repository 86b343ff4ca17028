#!/bin/sh
# What only a GPU can show, one command each, for a machine that is lent for ten minutes and returns small files.
#
#   sh benchmarks/one_gpu.sh tests                      the tests marked gpu
#   sh benchmarks/one_gpu.sh bench                      eo-train bench on CUDA
#   sh benchmarks/one_gpu.sh train IMAGES INIT [EPOCHS] distill-mini on the folders of pairs in IMAGES
#   sh benchmarks/one_gpu.sh join                       the returned pieces to a folder of weights; on the machine at home
#
# Run from the checkout. Results go to $OUT (default: gpu-out): files of at most 15 MiB; what is larger is split, and joined
# again by its sha256. DEVICE=cpu tries a command out. SECONDS_LEFT (default 420) bounds the training alone.
set -eu
OUT=${OUT:-gpu-out}
DEVICE=${DEVICE:-cuda}
case "${1:-}" in
tests | bench | train | join) mkdir -p "$OUT" ;;
*)
    echo "error: name one of tests, bench, train, join (see the first lines of $0)" >&2
    exit 2
    ;;
esac

pieces() { # FILE: into $OUT, with its digest
    split -b 15M -d "$1" "$OUT/$(basename "$1")."
    (cd "$(dirname "$1")" && sha256sum "$(basename "$1")") >"$OUT/$(basename "$1").sha256"
}

case "$1" in
tests)
    python3 -m pytest -m gpu -n 0 -q --tb=short 2>&1 | tee "$OUT/tests.log"
    ;;
bench)
    python3 -m eo_backbones_train bench --device "$DEVICE" --out "$OUT" 2>&1 | tee "$OUT/bench.log"
    ;;
train)
    images=$2 init=$3 epochs=${4:-780} # 780 epochs of 2,560 pairs: 2 million pairs
    work=$(mktemp -d)
    train="python3 -m eo_backbones_train"
    for folder in "$images"/*/; do
        case "$(basename "$folder")" in
        ombria) options="--unit B03=uint8:0:1 --unit B08=uint8:0:1 --unit B11=uint8:0:1 --unit VV=uint8" ;;
        sen12_five_pretrain) options="--bands B03=1 --bands VV=1 --unit uint8" ;;
        sen12_rgb_pairs) options="--unit uint8" ;;
        *) options="" ;;
        esac
        # shellcheck disable=SC2086  # several options
        $train prepare --layout pairs --root "$folder" --out "$work/store" $options
    done
    timeout -s INT "${SECONDS_LEFT:-420}" $train pretrain distill-mini --store "$work/store" --out "$work/run" --resume \
        --init "local-dir:$init" --epochs "$epochs" --device "$DEVICE" --checkpoint-every 1min --no-tensorboard || true
    $train export "$work/run" --out "$work/folder" # of an unfinished run as its newest checkpoint has it, and says so
    tar -cf "$work/folder.tar" -C "$work" folder
    pieces "$work/folder.tar"
    ;;
join)
    cd "$OUT"
    cat folder.tar.[0-9]* >folder.tar
    sha256sum -c folder.tar.sha256
    tar -xf folder.tar
    ;;
esac
