//! Where a program begins that carries its C library: what relocations will write to (`PT_GNU_RELRO`, elf(5)) is made its own by one
//! call, and not by a fault for each of its pages, which are 100 in a small program and 500 in `amphipod`. `link.rs` names it to the
//! linker (`-e`). Before that `small.rs` has its turn. Refuses to know what the program does.

use std::mem::offset_of;

use libc::{Elf64_Ehdr, Elf64_Phdr, MADV_POPULATE_WRITE, PT_GNU_RELRO, SYS_madvise};

// SAFETY: runs before anything else, on the stack that the kernel made, and leaves it and what `_start` reads of the registers as they
// were (rsp, rdx: System V ABI, AMD64, 3.4.1). The addresses are the program's own header's, and made of where it lies, for nothing is
// relocated yet. A kernel that has no such advice (before 5.14) refuses it, which changes nothing.
std::arch::global_asm!(
    ".globl amphipod_start",
    "amphipod_start:",
    "mov r12, rdx",
    "mov rdi, rsp",
    "call amphipod_become_small",
    "lea r9, [rip + __ehdr_start]",
    "mov r10, [r9 + {table}]",
    "add r10, r9",
    "movzx ecx, word ptr [r9 + {count}]",
    "2: dec ecx",
    "js 4f",
    "cmp dword ptr [r10], {relro}",
    "je 3f",
    "add r10, {size}",
    "jmp 2b",
    "3: mov rdi, [r10 + {address}]",
    "add rdi, r9",
    "mov rsi, [r10 + {length}]",
    "add rsi, rdi",
    "and rdi, -4096",
    "sub rsi, rdi",
    "mov edx, {populate}",
    "mov eax, {madvise}",
    "syscall",
    "4: mov rdx, r12",
    "jmp _start",
    ".hidden __ehdr_start",
    table = const offset_of!(Elf64_Ehdr, e_phoff),
    count = const offset_of!(Elf64_Ehdr, e_phnum),
    relro = const PT_GNU_RELRO,
    size = const size_of::<Elf64_Phdr>(),
    address = const offset_of!(Elf64_Phdr, p_vaddr),
    length = const offset_of!(Elf64_Phdr, p_memsz),
    populate = const MADV_POPULATE_WRITE,
    madvise = const SYS_madvise,
);
