#!/bin/bash
# As many Pods as a node is to hold, at rest: first native ones, then Wasm ones, in a cluster of its own that goes with them.
# Figures go to standard output (RESULTS.md has some). Needs root, busybox and curl, and a host that does nothing else:
#
#   cargo build --release && node/benches/many.sh [NATIVE [WASM]]
#
# Each Pod needs an address; the default --pod-cidr has 65,533. Wasm Pods of a namespace share a process, which needs some descriptors for
# each of them (ulimit -n).
set -euo pipefail
cd "$(dirname "$0")/../.."
native=${1:-1000} wasm=${2:-5000}
amphipod=$PWD/target/release/amphipod
home=$(mktemp -d) data=$home/data

mkdir -p "$home/image/bin"
cp "$(command -v busybox)" "$home/image/bin/sleep"

"$amphipod" up --data-dir "$data" --listen 127.0.0.1:17643 --registry 127.0.0.1:17644 --node-name many --rm \
    --max-pods $((native > wasm ? native + 10 : wasm + 10)) > "$home/log" 2>&1 &
agent=$!
# The cluster removes what it made when it is told to end; what is left is what it wrote.
trap 'kill $agent; wait $agent || true; rm -rf "$home"' EXIT
until [ -s "$data/kubeconfig" ] && curl -skf https://127.0.0.1:17643/readyz > /dev/null; do
    kill -0 $agent || { cat "$home/log"; exit 1; }
    sleep 0.2
done
"$amphipod" image push --data-dir "$data" "$home/image" amphipod.local/sleep:v1 --entrypoint /bin/sleep --cmd 1000000
"$amphipod" image push --data-dir "$data" workloads/wasm/server.wasm amphipod.local/server:v1

cargo bench -q -p amphipod-node --bench pods -- "$data/kubeconfig" --agent $agent \
    --native amphipod.local/sleep:v1 --rest "$native" --wasm amphipod.local/server:v1 --rest "$wasm"
