#!/usr/bin/env bash
# What a GPU is asked, in about eight minutes: the tests that need one, then each part of gpu.py. Every part has a time limit
# of its own, and one that fails does not end the rest. The most valuable parts come first.
#
#     OUT=results bash benchmarks/gpu_block.sh [--device cpu --tiny] [PART…]
#
# Parts: tests steps busy sweep mnist likelihood precision images pictures compiled onnx. Results and output go to the folder $OUT.
# `mnist` and `precision` need VAEKIT_DATA, a folder with MNIST/raw; `pictures` needs PICTURES and WEIGHTS, see gpu.py; `steps` and
# `likelihood` need pythae 0.1.2.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${OUT:?the folder for results}")
device=cuda
options=()
parts=()
while (($#)); do
  case $1 in
    --device) device=$2 && shift ;;
    --tiny) options+=(--tiny) ;;
    *) parts+=("$1") ;;
  esac
  shift
done
((${#parts[@]})) || parts=(tests steps busy sweep mnist likelihood precision images pictures compiled onnx)
mkdir -p "$out/logs"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 TQDM_DISABLE=1

run() { # NAME SECONDS COMMAND…
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  timeout -k 5 "$limit" "$@" > "$out/logs/$name.txt" 2>&1
  printf '%-12s exit %3d after %3d s\n' "$name" $? $((SECONDS - began))
}

part() { # NAME SECONDS OPTION…
  run "$1" "$2" python3 benchmarks/gpu.py "$1" --device "$device" "${options[@]}" --json "$out/$1.json" "${@:3}"
}

for name in "${parts[@]}"; do
  case $name in
    tests)
      if [ "$device" = cuda ]; then
        run tests "${TESTS_SECONDS:-240}" env OMP_NUM_THREADS=1 python3 -m pytest -m gpu -n 14 -ra --durations 5 -W default -p no:benchmark
      fi
      ;;
    steps) part steps 50 ;;
    busy) part busy 40 ;;
    sweep) part sweep 60 ;;
    likelihood) part likelihood 30 ;;
    mnist) part mnist 45 ;;
    precision) part precision 45 ;;
    images) part images 50 ;;
    pictures) part pictures 150 --pictures "${PICTURES:?an .npz file}" --weights "${WEIGHTS:?those of EfficientNet-Lite0}" ;;
    compiled) part compiled 60 ;;
    onnx) part onnx 15 ;;
  esac
done
for log in "$out"/logs/*.txt; do
  printf '\n== %s\n' "$(basename "$log" .txt)"
  tail -n 30 "$log" | cut -c 1-700
done
tar -C "$out" -czf "$out/results.tgz" logs $(cd "$out" && ls ./*.json) && rm -r "$out"/logs "$out"/*.json
