//! Says what it was given and ends with the exit code named by its first argument, or by `EXIT_CODE`, or 1.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let code = arguments
        .first()
        .cloned()
        .or_else(|| std::env::var("EXIT_CODE").ok());
    let code = code.and_then(|word| word.parse().ok()).unwrap_or(1);
    println!("arguments: {}", arguments.join(" "));
    println!("GREETING={}", std::env::var("GREETING").unwrap_or_default());
    eprintln!("failing on purpose with {code}");
    ExitCode::from(code)
}
