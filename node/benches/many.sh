#!/bin/bash
# As many Pods as a node is to hold, at rest: first native ones, then Wasm ones, in a cluster of its own that goes with them.
# Figures go to standard output (RESULTS.md has some). Needs root, busybox and curl, and a host that does nothing else:
#
#   cargo build --release && node/benches/many.sh [NATIVE [WASM]]
#
# Each Pod needs an address, so the node gets a larger slice than the usual one of 254. The agent is a process of its own, so that it is
# measured alone. Wasm Pods of a namespace share a process, which needs two descriptors for each of them (ulimit -n), or some processes.
set -euo pipefail
cd "$(dirname "$0")/../.."
native=${1:-1000} wasm=${2:-5000}
amphipod=$PWD/target/$(rustc --print host-tuple)/release/amphipod
home=$(mktemp -d) data=$home/data

mkdir -p "$home/image/bin"
cp "$(command -v busybox)" "$home/image/bin/sleep"

server=127.0.0.1:17643 registry=127.0.0.1:17644
# Twice as many addresses as 5,000 Pods need: those of Pods that are on their way out are not free yet.
"$amphipod" control --data-dir "$data" --listen $server --registry $registry --node-cidr-mask-size 18 >> "$home/log" 2>&1 &
control=$!
agent=
end() {
    # Of the Pods of an agent that ends nothing ends; `down` takes away what they have on this host.
    if [ -n "$agent" ]; then
        kill "$agent" || cat "$home/log"
        wait "$agent" || true
        "$amphipod" down --data-dir "$home/node"
    fi
    kill $control
    wait $control || true
    rm -rf "$home"
}
trap end EXIT
until [ -s "$data/kubeconfig" ] && curl -skf https://$server/readyz > /dev/null; do
    kill -0 $control || { cat "$home/log"; exit 1; }
    sleep 0.2
done
"$amphipod" kubeconfig --data-dir "$data" --node many > "$home/node.kubeconfig"
"$amphipod" node --server https://$server --kubeconfig "$home/node.kubeconfig" --data-dir "$home/node" --node-name many \
    --registry http://$registry --max-pods $((native > wasm ? native + 10 : wasm + 10)) >> "$home/log" 2>&1 &
agent=$!
"$amphipod" image push --data-dir "$data" "$home/image" amphipod.local/sleep:v1 --entrypoint /bin/sleep --cmd 1000000
"$amphipod" image push --data-dir "$data" workloads/wasm/server.wasm amphipod.local/server:v1

cargo bench -q -p amphipod-node --bench pods -- "$data/kubeconfig" --agent $agent \
    --native amphipod.local/sleep:v1 --rest "$native" --wasm amphipod.local/server:v1 --rest "$wasm"
