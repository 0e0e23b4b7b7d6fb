#!/bin/sh
# Writes foreign.rs: foreign.sh DIRECTORY-OF-unistd_32.h ARM-TABLE-OF-THE-libc-CRATE > foreign.rs
# (linux-libc-dev's asm/, and src/unix/linux_like/linux/gnu/b32/arm/mod.rs). From 424 on all architectures number alike.
set -eu

table() {
    echo
    echo "#[rustfmt::skip]"
    echo "pub const $1: super::syscalls::Table = &["
    LC_ALL=C sort | sed 's/.*/("&),/; s/ /",/' | fmt -w 100 | sed 's/^/    /'
    echo "];"
}

echo "//! System calls of the programs of other architectures that a kernel runs besides its own. Made by \`foreign.sh\`."
awk '$1 == "#define" && $2 ~ /^__NR_/ && $3 < 424 { print substr($2, 6), $3 }' "$1/unistd_32.h" | table I386
sed -n 's/^#define __NR_\([a-z0-9_]*\) (__X32_SYSCALL_BIT + \(5[0-9][0-9]\))/\1 \2/p' "$1/unistd_x32.h" | table X32
{
    sed -n 's/^pub const SYS_\([a-z0-9_]*\): c_long = \([0-9]*\);/\1 \2/p' "$2" | awk '$2 < 403'
    awk '$1 == "#define" && $2 ~ /^__NR_/ && $3 >= 403 && $3 < 424 { print substr($2, 6), $3 }' "$1/unistd_32.h"
    # Its own (arch/arm/include/uapi/asm/unistd.h), by names that other runtimes have for them too.
    printf 'breakpoint 983041\ncacheflush 983042\nset_tls 983045\n'
} | table ARM
