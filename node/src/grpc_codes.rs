//! Names of the codes of the gRPC documentation ("Status codes and their use in gRPC"), as Go writes them.

const NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// A code that has no name is told by its number.
pub fn code_name(code: &str) -> String {
    let known = code.parse().ok().and_then(|number: usize| NAMES.get(number));
    known.map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_names() {
        for (code, name) in [
            ("0", "OK"),
            ("5", "NotFound"),
            ("16", "Unauthenticated"),
            ("17", "Code(17)"),
            ("x", "Code(x)"),
        ] {
            assert_eq!(code_name(code), name);
        }
    }
}
