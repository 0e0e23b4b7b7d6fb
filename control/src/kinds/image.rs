//! Image references, as far as a pull policy depends on them.

/// Whether a reference means the moving tag `latest`, said or not.
pub(super) fn is_latest(reference: &str) -> bool {
    if reference.contains('@') {
        return false;
    }
    let name = reference.rsplit('/').next().unwrap_or(reference);
    match name.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !reference.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::is_latest;

    #[test]
    fn tags() {
        for (reference, latest) in [
            ("busybox", true),
            ("busybox:latest", true),
            ("busybox:1.36", false),
            ("r:5000/a/b", true),
            ("r:5000/a/b:v1", false),
            ("x@sha256:aaaa", false),
            ("", false),
        ] {
            assert_eq!(is_latest(reference), latest, "{reference}");
        }
    }
}
