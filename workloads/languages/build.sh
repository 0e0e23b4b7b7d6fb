#!/bin/sh
# Builds HTTP handlers written in Python and JavaScript as components: hello-python.wasm (18 MB) and hello-js.wasm (13 MB) in
# the directory named, too large to be committed. Needs python3, node, npm, cargo, and the registries of all three.
#
#   workloads/languages/build.sh DIR
#   amphipod image push DIR/hello-python.wasm amphipod.local/hello-python:v1
set -eu

out=$(realpath -m "${1:?say where the components shall be}")
here=$(dirname "$(realpath "$0")")
mkdir -p "$out/build"
cd "$out/build"

# The interfaces are those of the wasmtime in use.
rm -rf wit
cargo metadata --manifest-path "$here/../../Cargo.toml" --format-version 1 |
    python3 -c '
import json, os, shutil, sys
packages = json.load(sys.stdin)["packages"]
manifest = next(p["manifest_path"] for p in packages if p["name"] == "wasmtime-wasi-http")
shutil.copytree(os.path.join(os.path.dirname(manifest), "wit"), "wit")
'

python3 -m venv python
python/bin/pip install --quiet componentize-py==0.25.1
(cp "$here/python/app.py" . && "$out/build/python/bin/componentize-py" \
    -d "$out/build/wit" -w wasi:http/proxy componentize app -o "$out/hello-python.wasm")

cp "$here/javascript/app.js" "$here/javascript/build.mjs" .
npm install --silent --no-audit --no-fund --prefix . @bytecodealliance/componentize-js@0.23.0
node build.mjs app.js wit wasi:http/proxy "$out/hello-js.wasm"
ls -l "$out"
