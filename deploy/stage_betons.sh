#!/usr/bin/env bash
# Copy .beton files, and the .json beside each, to a disk of this node:
#
#   bash deploy/stage_betons.sh data/imagenet /scratch/imagenet
#
# However many processes and jobs of a node call it at a time, one copies and the others wait for it;
# afterwards all of them find every file whole. Files that are there already, of the same size and
# time, stay. A copy that is cut short leaves nothing that could be taken for the file.
set -euo pipefail

[ $# = 2 ] || { echo "usage: $0 SOURCE_FOLDER TARGET_FOLDER" >&2; exit 2; }
source=$1 target=$2

shopt -s nullglob
files=("$source"/*.beton "$source"/*.beton.json)
[ ${#files[@]} -gt 0 ] || { echo "$0: there is no .beton in $source" >&2; exit 2; }

size_and_time() { stat --dereference --format='%s %Y' "$1"; }

mkdir -p "$target"
exec 9>"$target/.lock"
flock 9 # until this process ends, however it ends
part=
trap 'rm -f "$part"' EXIT

for file in "${files[@]}"; do
  copy=$target/${file##*/}
  wanted=$(size_and_time "$file")
  if [ -e "$copy" ] && [ "$(size_and_time "$copy")" = "$wanted" ]; then
    continue
  fi
  part=$copy.part
  cp --dereference --preserve=timestamps "$file" "$part" ||
    { echo "$0: $file was not copied: is there room in $target?" >&2; exit 1; }
  if [ "$(size_and_time "$part")" != "$wanted" ]; then
    echo "$0: $file changed while it was copied: call this again when it is finished" >&2
    exit 1
  fi
  mv "$part" "$copy"
done
