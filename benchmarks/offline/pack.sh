#!/usr/bin/env bash
# Collect the wheels that an offline NVIDIA machine lacks, in folders small enough to be carried one by one.
#
#   benchmarks/offline/pack.sh FOLDER [REQUIREMENT...]          downloads through pip, where there is a network
#   benchmarks/offline/pack.sh --from WHEELS FOLDER             packs the wheels of a folder
#
# The machine has Python and PyTorch for CUDA 13 (whose libraries serve MLX too), with transformers and PEFT if that side
# is to be measured. What else it lacks is named behind the folder: a requirement each, without its own requirements.
#
# PYTHON_VERSION (3.12), MLX_VERSION, MLX_VLM_VERSION: of that machine. PART_BYTES: the largest that can be carried.
set -euo pipefail
wheels=
if [ "${1:-}" = --from ]; then wheels=${2:?usage: pack.sh --from WHEELS FOLDER}; shift 2; fi
folder=${1:?usage: pack.sh FOLDER [REQUIREMENT...]}; shift
part_bytes=${PART_BYTES:-46000000}
if [ -e "$folder" ]; then echo "$folder is there already; name a folder that is not" >&2; exit 2; fi

work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
if [ -z "$wheels" ]; then
  wheels=$work/wheels
  platforms=()
  # pip takes a platform's name as it stands, older ones not included.
  for minor in $(seq 39 -1 17) 12 5; do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done
  python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
    --python-version "${PYTHON_VERSION:-3.12}" "${platforms[@]}" \
    --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --dest "$wheels" \
    "mlx==${MLX_VERSION:-0.32.4}" "mlx-cuda-13==${MLX_VERSION:-0.32.4}" "mlx-vlm==${MLX_VLM_VERSION:-0.7.10}" \
    mlx-audio miniaudio datasets dill multiprocess cattrs tomli-w "$@"
fi

mkdir -p "$work/parts" "$work/pieces"
number=0 left=0
# The largest first: the small ones fill what it leaves.
mapfile -t sorted < <(ls --sort=size "$wheels"/*.whl)
for wheel in "${sorted[@]}"; do
  name=$(basename "$wheel")
  split --bytes="$part_bytes" --numeric-suffixes --suffix-length=3 "$wheel" "$work/pieces/$name."
  pieces=("$work/pieces/$name".*)
  echo "$(sha256sum < "$wheel" | cut -d' ' -f1) ${#pieces[@]} $name" >> "$work/manifest"
  for piece in "${pieces[@]}"; do
    size=$(stat --format=%s "$piece")
    if [ "$size" -gt "$left" ]; then
      number=$((number + 1)) left=$part_bytes
      mkdir "$work/parts/$number"
    fi
    mv "$piece" "$work/parts/$number/"
    left=$((left - size))
  done
done
# Every part says what belongs to the whole.
for part in "$work"/parts/*; do cp "$work/manifest" "$part/"; done
mkdir -p "$(dirname "$folder")"
mv "$work/parts" "$folder"
du --human-readable --apparent-size "$folder"/*
