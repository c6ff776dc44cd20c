#!/usr/bin/env bash
# What a GPU is asked, in less than eight minutes: the tests that need one, then each part of gpu.py. Every part has a time limit
# of its own, and one that fails does not end the rest. The most valuable parts come first.
#
#     OUT=results bash benchmarks/gpu_block.sh [--device cpu --tiny] [PART…]
#
# Parts: tests zoo steps busy sweep likelihood mnist precision images onnx. Results and output go to the folder $OUT; `zoo`, which
# runs beside the tests, and `mnist` need VAEKIT_DATA, a folder with MNIST/raw. All parts need pythae 0.1.2.
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
((${#parts[@]})) || parts=(tests zoo steps busy sweep likelihood mnist precision images onnx)
mkdir -p "$out/logs"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

run() { # NAME SECONDS COMMAND…
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  timeout -k 5 "$limit" "$@" > "$out/logs/$name.txt" 2>&1
  printf '%-12s exit %3d after %3d s\n' "$name" $? $((SECONDS - began))
}

part() { run "$1" "$2" python3 benchmarks/gpu.py "$1" --device "$device" "${options[@]}" --json "$out/$1.json"; }

zoo() { # NUMBER MODELS
  run "zoo-$1" 170 python3 benchmarks/zoo.py --device "$device" --models "$2" --json "$out/zoo-$1.json" \
    ${options:+--epochs 1 --samples 5 --seeds 1}
}

for name in "${parts[@]}"; do
  case $name in
    tests)
      if [ "$device" = cuda ]; then
        run tests 170 python3 -m pytest -m gpu -n 8 -ra --durations 15 -W default -p no:benchmark &
      fi
      ;;
    zoo)
      zoo 1 iwae-50 &
      zoo 2 vae,iwae-5,vampprior,s-vae &
      zoo 3 maf-prior,iaf,ladder-vae &
      ;;
    steps) wait && part steps 120 ;;
    busy) wait && part busy 60 ;;
    sweep) wait && part sweep 75 ;;
    likelihood) wait && part likelihood 45 ;;
    mnist) wait && part mnist 60 ;;
    precision) wait && part precision 60 ;;
    images) wait && part images 100 ;;
    onnx) wait && part onnx 20 ;;
  esac
done
wait
for log in "$out"/logs/*.txt; do
  printf '\n== %s\n' "$(basename "$log" .txt)"
  tr '\r' '\n' < "$log" | grep -v 'Training of epoch' | tail -n 30 | cut -c 1-700
done
tar -C "$out" -czf "$out/results.tgz" logs $(cd "$out" && ls ./*.json) && rm -r "$out"/logs "$out"/*.json
