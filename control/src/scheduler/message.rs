//! The sentence that says why no node takes a Pod, as upstream's `FitError` puts it.
use std::collections::BTreeMap;

/// Reasons with the number of nodes that gave them.
pub type Reasons = BTreeMap<String, usize>;

pub fn fit_error(nodes: usize, reasons: &Reasons) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut parts: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.sort();
    match parts.is_empty() {
        true => format!("0/{nodes} nodes are available."),
        false => format!("0/{nodes} nodes are available: {}.", parts.join(", ")),
    }
}

/// The same when the Pod itself is in the way, whatever the node.
pub fn refusal(nodes: usize, why: &str) -> String {
    match nodes {
        0 => fit_error(0, &Reasons::new()),
        _ => format!("0/{nodes} nodes are available: {why}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_sorted_as_text() {
        let reasons = |pairs: &[(&str, usize)]| pairs.iter().map(|(r, c)| ((*r).to_owned(), *c)).collect();
        let cases = [
            (0, reasons(&[]), "no nodes available to schedule pods"),
            (
                1,
                reasons(&[("Insufficient cpu", 1)]),
                "0/1 nodes are available: 1 Insufficient cpu.",
            ),
            (
                12,
                reasons(&[("Insufficient cpu", 2), ("node(s) had untolerated taint(s)", 10)]),
                "0/12 nodes are available: 10 node(s) had untolerated taint(s), 2 Insufficient cpu.",
            ),
        ];
        for (nodes, reasons, expected) in cases {
            assert_eq!(fit_error(nodes, &reasons), expected);
        }
    }
}
