//! The signal that asks a container to stop, as its image writes it (image-spec, `StopSignal`).

const SIGTERM: u32 = 15;

/// The image's `StopSignal`, a name with or without SIG or a number.
pub fn stop_signal(text: &str) -> u32 {
    let text = text.trim();
    if text.is_empty() {
        return SIGTERM;
    }
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=64).contains(&number) {
            number
        } else {
            SIGTERM
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    name.parse::<nix::sys::signal::Signal>()
        .map_or(SIGTERM, |signal| signal as u32)
}

#[cfg(test)]
mod tests {
    #[test]
    fn stop_signals() {
        for (text, number) in [
            ("", 15),
            ("SIGQUIT", 3),
            ("quit", 3),
            ("9", 9),
            ("SIGNOTHING", 15),
            ("0", 15),
            ("1000", 15),
        ] {
            assert_eq!(super::stop_signal(text), number, "{text}");
        }
    }
}
