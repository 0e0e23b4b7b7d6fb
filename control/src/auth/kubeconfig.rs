//! The kubeconfig file, in the form that every `kubectl` and client library reads.
use super::pki::Issued;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One cluster, one user, one context, with everything embedded.
pub(super) fn render(cluster: &str, server: &str, user: &str, ca_pem: &str, issued: &Issued) -> String {
    let encode = |pem: &str| STANDARD.encode(pem);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: {cluster}\n  \
           cluster:\n    \
             server: {server}\n    \
             certificate-authority-data: {ca}\n\
         users:\n\
         - name: {user}\n  \
           user:\n    \
             client-certificate-data: {cert}\n    \
             client-key-data: {key}\n\
         contexts:\n\
         - name: {cluster}\n  \
           context:\n    \
             cluster: {cluster}\n    \
             user: {user}\n\
         current-context: {cluster}\n\
         preferences: {{}}\n",
        cluster = quoted(cluster),
        server = quoted(server),
        user = quoted(user),
        ca = encode(ca_pem),
        cert = encode(&issued.cert_pem),
        key = encode(&issued.key_pem),
    )
}

/// A YAML double-quoted scalar; JSON strings are a subset of those.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_read_it_whatever_the_names_hold() {
        let issued = Issued {
            cert_pem: "C".into(),
            key_pem: "K".into(),
        };
        let text = render(
            "a: \"b\"",
            "https://127.0.0.1:6443",
            "system:admin",
            "CA",
            &issued,
        );
        let read = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("a: \"b\""));
        assert_eq!(
            read.clusters[0].cluster.as_ref().unwrap().server.as_deref(),
            Some("https://127.0.0.1:6443")
        );
        assert_eq!(read.auth_infos[0].name, "system:admin");
    }
}
