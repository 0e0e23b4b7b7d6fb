#!/usr/bin/env bash
# Rebuilds workloads/wasm/*.wasm from this folder's sources.
#
#   workloads/build-wasm.sh                  with a toolchain that has the targets
#                                            (rustup target add wasm32-wasip1 wasm32-wasip2)
#   workloads/build-wasm.sh --debian DIR     with Debian forky's rustc and libstd-rust-dev-wasm32, put into DIR by
#                                            debootstrap (root; needs the packages debootstrap, gcc)
#
# The results are committed, so nobody who only runs them needs this.
set -euo pipefail
cd "$(dirname "$0")"
out=$PWD/wasm
build=$(cd .. && pwd)/target/wasm

# The Debian toolchain runs in its own root; the checkout and cargo's home are visible there at the same paths.
debian_root() {
    local root=$1 repo cargo_home
    repo=$(cd .. && pwd)
    cargo_home=${CARGO_HOME:-$HOME/.cargo}
    if [ ! -x "$root/usr/bin/rustc" ]; then
        debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev,rustc,cargo,libstd-rust-dev-wasm32,lld,wasi-libc \
            forky "$root"
    fi
    # Debian ships no linker for components; the one rustup ships is a crate.
    command -v wasm-component-ld >/dev/null || [ -x "$root/usr/local/bin/wasm-component-ld" ] ||
        cargo install wasm-component-ld --locked --root "$root/usr/local"
    [ -x "$root/usr/local/bin/wasm-component-ld" ] ||
        install -D "$(command -v wasm-component-ld)" "$root/usr/local/bin/wasm-component-ld"
    cargo fetch --locked
    mkdir -p "$root$repo" "$root$cargo_home" "$root/proc"
    # A mount namespace of its own: the bind mounts end with the build.
    exec unshare --mount bash -euo pipefail -c '
        root=$1 repo=$2 cargo_home=$3
        mount --bind "$repo" "$root$repo"
        mount --bind "$cargo_home" "$root$cargo_home"
        mount -t proc proc "$root/proc"
        exec chroot "$root" env -u RUSTUP_TOOLCHAIN PATH=/usr/local/bin:/usr/bin:/bin CARGO_HOME="$cargo_home" CARGO_NET_OFFLINE=true \
            CARGO_TARGET_WASM32_WASIP1_LINKER=wasm-ld CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="-L /usr/lib/wasm32-wasi" \
            CARGO_TARGET_WASM32_WASIP2_LINKER=wasm-component-ld \
            CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS="-L /usr/lib/wasm32-wasip2 -C link-arg=--wasm-ld-path=/usr/bin/wasm-ld" \
            bash "$repo/workloads/build-wasm.sh"
    ' _ "$root" "$repo" "$cargo_home"
}

if [ "${1:-}" = --debian ]; then
    debian_root "$(realpath -m "${2:?say where the Debian root is or shall be}")"
fi

# Small rather than fast: these are demos that live in git.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=s CARGO_PROFILE_RELEASE_LTO=true CARGO_PROFILE_RELEASE_STRIP=debuginfo \
    CARGO_PROFILE_RELEASE_PANIC=abort CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 CARGO_PROFILE_RELEASE_INCREMENTAL=false
mkdir -p "$out"
for program in print fail hog burn writer escape witness; do
    cargo rustc --locked --release --package workloads --bin "$program" --target wasm32-wasip1 --target-dir "$build"
    install -m 644 "$build/wasm32-wasip1/release/$program.wasm" "$out/$program.wasm"
done
for program in print escape names witness toolbox; do
    cargo rustc --locked --release --package workloads --bin "$program" --target wasm32-wasip2 --target-dir "$build"
    install -m 644 "$build/wasm32-wasip2/release/$program.wasm" "$out/$program-component.wasm"
done
mv "$out/toolbox-component.wasm" "$out/toolbox.wasm"
cargo rustc --locked --release --package workloads --lib --crate-type cdylib --target wasm32-wasip2 --target-dir "$build"
install -m 644 "$build/wasm32-wasip2/release/workloads.wasm" "$out/server.wasm"
ls -l "$out"
