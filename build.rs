//! Has the programs linked as those of linux-shim are.

#[path = "linux-shim/link.rs"]
mod link;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=linux-shim/link.rs");
    link::options();
}
