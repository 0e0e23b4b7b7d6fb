//! Prints the addresses of the names it is given, one line for each name, then ends with 0.

fn main() {
    for name in std::env::args().skip(1) {
        let line = addresses(&name).unwrap_or_else(|why| why);
        println!("{name}: {line}");
    }
}

#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
fn addresses(name: &str) -> Result<String, String> {
    use std::net::ToSocketAddrs;
    let found = (name, 0).to_socket_addrs().map_err(|why| why.to_string())?;
    let all: Vec<String> = found.map(|address| address.ip().to_string()).collect();
    Ok(all.join(" "))
}

/// By `wasi:sockets/ip-name-lookup` itself: not every C library for Wasm has a function for it.
#[cfg(all(target_os = "wasi", target_env = "p2"))]
fn addresses(name: &str) -> Result<String, String> {
    use wasip2::sockets::instance_network::instance_network;
    use wasip2::sockets::ip_name_lookup::resolve_addresses;
    use wasip2::sockets::network::IpAddress;
    let found = resolve_addresses(&instance_network(), name).map_err(|why| why.to_string())?;
    found.subscribe().block();
    let mut all = Vec::new();
    while let Some(address) = found.resolve_next_address().map_err(|why| why.to_string())? {
        all.push(match address {
            IpAddress::Ipv4((a, b, c, d)) => format!("{a}.{b}.{c}.{d}"),
            IpAddress::Ipv6(_) => "an IPv6 address".to_owned(),
        });
    }
    Ok(all.join(" "))
}
