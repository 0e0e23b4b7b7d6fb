//! Takes memory, a mebibyte at a time, and touches it, until it is stopped or has `HOG_MIB` of it.

fn main() {
    let most: usize = std::env::var("HOG_MIB")
        .ok()
        .and_then(|word| word.parse().ok())
        .unwrap_or(usize::MAX);
    let mut held = Vec::new();
    while held.len() < most {
        held.push(vec![held.len() as u8 | 1; 1 << 20]);
        if held.len().is_multiple_of(16) {
            println!("holding {} MiB", held.len());
        }
    }
    println!("done with {} MiB", held.len());
}
