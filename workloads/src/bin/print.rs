//! Prints its arguments, its environment and the files named by `FILES` (separated by `:`), then ends with 0.

fn main() -> std::io::Result<()> {
    for (place, argument) in std::env::args().enumerate() {
        println!("arg {place}: {argument}");
    }
    print!("{}", workloads::site::environment());
    for file in std::env::var("FILES")
        .unwrap_or_default()
        .split(':')
        .filter(|file| !file.is_empty())
    {
        println!("--- {file}\n{}", std::fs::read_to_string(file)?);
    }
    Ok(())
}
