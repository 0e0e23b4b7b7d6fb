#!/usr/bin/env bash
# Requests to a Wasm container, to one that reuses its instances and to a native one with the same handler, through the Pod's
# address and through a Service, in the same rounds as the shim alone and, where WASMTIME names that program, `wasmtime serve`.
# Needs root, kubectl and a quiet machine.
#
#   wasm-shim/benches/pods.sh [ARGUMENT OF amphipod up]…
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --release --package amphipod --bin amphipod
home=$(mktemp -d)
"target/$(rustc --print host-tuple)/release/amphipod" up --data-dir "$home/data" --rm "$@" wasm-shim/benches/pods >"$home/log" 2>&1 &
up=$!
trap 'kill "$up"; wait "$up" || true; rm -rf "$home"' EXIT
kubectl() { command kubectl --kubeconfig "$home/data/kubeconfig" "$@"; }
until kubectl get pods wasm wasm-reused native >"$home/pods" 2>&1; do
    kill -0 "$up" || { cat "$home/log" >&2; exit 1; }
    sleep 1
done
kubectl wait --for=condition=Ready --timeout=5m pods --all
servers=()
for name in wasm wasm-reused native; do
    servers+=("$name, Pod=$(kubectl get pod "$name" -o jsonpath='{.status.podIP}'):8080")
    servers+=("$name, Service=$(kubectl get service "$name" -o jsonpath='{.spec.clusterIP}'):80")
done
cargo bench --package amphipod --package amphipod-wasm-shim --bench serving -- requests "${servers[@]}"
