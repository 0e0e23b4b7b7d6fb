//! Burns a cpu for ever, or for `BURN_ROUNDS` rounds.

fn main() {
    let rounds: u64 = std::env::var("BURN_ROUNDS")
        .ok()
        .and_then(|word| word.parse().ok())
        .unwrap_or(u64::MAX);
    println!("burning");
    let mut state = 1_u64;
    for round in 0..rounds {
        state = std::hint::black_box(state.wrapping_mul(6364136223846793005).wrapping_add(round));
    }
    println!("burnt {state:x}");
}
