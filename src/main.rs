//! Being written.
mod image;

fn main() {}
