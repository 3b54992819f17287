#!/usr/bin/env bash
# Install what pack.sh packed, on the offline machine: as many parts at a time as can be carried.
#
#   benchmarks/offline/install.sh PART...     once with all parts, or once for each
#   . "$HOME/vlora-offline/env.sh"            afterwards, in every shell
#
# Nothing outside VLORA_OFFLINE ($HOME/vlora-offline) is written.
set -euo pipefail
home=${VLORA_OFFLINE:-$HOME/vlora-offline}
if [ $# = 0 ]; then echo "usage: install.sh PART..." >&2; exit 2; fi
mkdir -p "$home/pieces" "$home/wheels"
for part in "$@"; do cp "$part"/* "$home/pieces/"; done

missing=0
while read -r sum count name; do
  if [ -e "$home/wheels/$name" ]; then continue; fi
  pieces=("$home/pieces/$name".*)
  if [ ! -e "${pieces[0]}" ] || [ "${#pieces[@]}" -lt "$count" ]; then
    missing=$((missing + 1))
    continue
  fi
  cat "${pieces[@]}" > "$home/joined"
  if [ "$(sha256sum < "$home/joined" | cut -d' ' -f1)" != "$sum" ]; then
    echo "$name is not what was packed; carry its parts again" >&2
    exit 1
  fi
  mv "$home/joined" "$home/wheels/$name"
  rm "${pieces[@]}"
done < "$home/pieces/manifest"
if [ "$missing" -gt 0 ]; then
  echo "kept; parts of $missing wheels are still to come"
  exit 0
fi

python3 -m pip install --quiet --no-index --no-deps --no-cache-dir --upgrade --target "$home/site" "$home"/wheels/*.whl
rm -rf "$home/wheels" "$home/pieces"
# MLX's CUDA wheel looks for libraries that PyTorch brings along in packages of NVIDIA's.
libraries=$(python3 - <<'END'
import importlib.util
from pathlib import Path

roots = []
for name in ("nvidia", "torch"):
    spec = importlib.util.find_spec(name)
    roots += list(spec.submodule_search_locations or ()) if spec else []
folders = {file.parent for root in roots for file in Path(root).rglob("lib*.so*")}
print(":".join(sorted(map(str, folders))))
END
)
cat > "$home/env.sh" <<END
export PYTHONPATH="$home/site\${PYTHONPATH:+:\$PYTHONPATH}" PYTHONUNBUFFERED=1
export LD_LIBRARY_PATH="$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
END
echo "installed; now: . $home/env.sh"
