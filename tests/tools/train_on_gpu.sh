#!/usr/bin/env bash
# Trains networks by the clock on one GPU, on a machine that has torch, timm, Pillow, safetensors and tqdm and no network.
#
#   tests/tools/train_on_gpu.sh "teacher plain 0-75 5" "mdrn plain 0-75 3"
#   TEACHER=pack/teacher.safetensors tests/tools/train_on_gpu.sh "mdrn hmds 0-75 4" "mdrn_tiny hmds 0-75 3"
#
# Each argument: preset, strategy, noise level, minutes. DATA holds the images (BSDS500/), OUT gets weights, curves and
# training states, the latter in parts of 15 MiB: `cat X.part-* > X` puts one together again, and the same command goes
# on from it. BATCH is the number of patches in a step, DEVICE cuda unless said otherwise.
set -euo pipefail
cd "$(dirname "$0")/../.."
out="${OUT:-runs/gpu}" data="${DATA:-pack}" batch="${BATCH:-256}" device="${DEVICE:-cuda}"
mkdir -p "$out"
for first in "$out"/*.part-aa; do
  [ -e "$first" ] && cat "${first%aa}"* > "${first%.part-aa}" && rm "${first%aa}"*
done
for job in "$@"; do
  read -r preset strategy level minutes <<< "$job"
  options=()
  [ "$strategy" = plain ] || options=(--teacher "${TEACHER:?names the weights of the teacher}")
  python3 -m mdrn train --preset "$preset" --strategy "$strategy" --noise-level "$level" --minutes "$minutes" \
    --batch-size "$batch" --data-root "$data" --out "$out" --device "$device" "${options[@]}" ${EXTRA:-}
done
for state in "$out"/*.state.safetensors; do
  split -b 15M "$state" "$state.part-" && rm "$state"
done
ls -l "$out"
