//! What a host's own firewall does to Pods: a table of ours cannot accept what another table drops, so a forward
//! chain whose policy is drop (Docker sets one) is told, with the command that lets Pods through. Changes nothing.

use super::nft::{self, ForwardPolicy};

/// One sentence for each chain that drops what Pods send and get. The names of their links begin with `links`.
pub fn obstacles(links: &str) -> Vec<String> {
    let found = nft::forward_drops(links).unwrap_or_else(|error| {
        tracing::debug!(%error, "the host's firewall cannot be looked at");
        Vec::new()
    });
    found.iter().map(|policy| sentence(policy, links)).collect()
}

fn sentence(policy: &ForwardPolicy, links: &str) -> String {
    let ForwardPolicy { family, table, chain } = policy;
    let commands = if (*family, table.as_str(), chain.as_str()) == ("ip", "filter", "FORWARD") {
        format!("iptables -I FORWARD -i {links}+ -j ACCEPT; iptables -I FORWARD -o {links}+ -j ACCEPT")
    } else {
        let rule = format!("nft insert rule {family} {table} {chain}");
        format!("{rule} iifname '\"{links}*\"' accept; {rule} oifname '\"{links}*\"' accept")
    };
    format!(
        "this host's firewall drops what is forwarded (policy of chain {chain} in table {family} {table}), so Pods \
         reach neither each other nor the world; let them through with: {commands}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_firewall_gets_its_own_words() {
        let of = |family, table: &str, chain: &str| {
            let (table, chain) = (table.to_owned(), chain.to_owned());
            sentence(&ForwardPolicy { family, table, chain }, "v0")
        };
        assert!(of("ip", "filter", "FORWARD").ends_with("iptables -I FORWARD -o v0+ -j ACCEPT"));
        let own = of("inet", "mine", "fwd");
        assert!(
            own.ends_with(r#"nft insert rule inet mine fwd oifname '"v0*"' accept"#),
            "{own}"
        );
    }
}
