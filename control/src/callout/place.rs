//! Where a server is: at a URL, or at an endpoint of a Service.
use crate::admission::{Objects, ResourceName};
use crate::kinds::view::View;
use http::Uri;
use serde_json::Value;

const SERVICES: ResourceName<'_> = ("", "v1", "services");
const SLICES: ResourceName<'_> = ("discovery.k8s.io", "v1", "endpointslices");
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const HTTPS: i64 = 443;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What the certificate must be for.
    pub host: String,
    /// The host as a URL has it, with the port where one was given.
    pub authority: String,
    /// Where to connect: address or name, and port.
    pub address: String,
    pub path: String,
}

impl Place {
    /// What a `clientConfig` means: `url` or `service`.
    pub fn of(objects: &dyn Objects, config: &Value) -> Result<Place, String> {
        match config.at("url").as_str() {
            Some(url) => Place::by_url(url),
            None => Place::by_service(objects, config.at("service")),
        }
    }

    fn by_url(url: &str) -> Result<Place, String> {
        let uri: Uri = url
            .parse()
            .map_err(|e| format!("the url {url:?} cannot be read: {e}"))?;
        let host = uri.host().ok_or_else(|| format!("the url {url:?} has no host"))?;
        let port = uri.port_u16().unwrap_or(443);
        Ok(Place {
            address: format!("{host}:{port}"),
            authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            path: uri.path().to_owned(),
        })
    }

    /// The URL that a `clientConfig` means, for errors.
    pub fn url(config: &Value) -> String {
        if let Some(url) = config.at("url").as_str() {
            return url.to_owned();
        }
        let service = config.at("service");
        let port = service.int("port").unwrap_or(HTTPS);
        let (name, namespace) = (service.text("name"), service.text("namespace"));
        let path = service.text("path").trim_start_matches('/');
        format!("https://{name}.{namespace}.svc:{port}/{path}")
    }

    /// A ready endpoint of the Service, at random.
    pub fn by_service(objects: &dyn Objects, reference: &Value) -> Result<Place, String> {
        let (namespace, name) = (reference.text("namespace"), reference.text("name"));
        let wanted = reference.int("port").unwrap_or(HTTPS);
        let service = objects
            .get(SERVICES, Some(namespace), name)
            .ok_or_else(|| format!("service {name:?} not found"))?;
        let mut found = match service.text("spec.type") {
            "ExternalName" => vec![format!("{}:{wanted}", service.text("spec.externalName"))],
            _ => {
                let mut ports = service.list("spec.ports").iter();
                let port = ports
                    .find(|p| p.int("port") == Some(wanted))
                    .ok_or_else(|| format!("no service port {wanted} found for service {name:?}"))?;
                endpoints(objects, (namespace, name), port.text("name"))
            }
        };
        if found.is_empty() {
            return Err(format!("no endpoints available for service {name:?}"));
        }
        let chosen = rand::random_range(0..found.len());
        let host = format!("{name}.{namespace}.svc");
        let path = match reference.text("path") {
            "" => "/",
            path => path,
        };
        Ok(Place {
            authority: format!("{host}:{wanted}"),
            host,
            address: found.swap_remove(chosen),
            path: path.to_owned(),
        })
    }
}

/// The addresses of a Service's ready endpoints at the port with this name.
fn endpoints(objects: &dyn Objects, (namespace, name): (&str, &str), port: &str) -> Vec<String> {
    let mut found = Vec::new();
    for slice in objects.list(SLICES, Some(namespace)) {
        let of = slice.at("metadata.labels").get(SERVICE_LABEL);
        if of.is_none_or(|of| of != name) {
            continue;
        }
        let target = slice.list("ports").iter().find(|p| p.text("name") == port);
        let Some(target) = target.and_then(|p| p.int("port")) else {
            continue;
        };
        let ready = slice
            .list("endpoints")
            .iter()
            .filter(|e| e.at("conditions.ready") != &Value::Bool(false));
        let addresses = ready.flat_map(|e| e.list("addresses")).filter_map(Value::as_str);
        found.extend(addresses.map(|address| match address.contains(':') {
            true => format!("[{address}]:{target}"),
            false => format!("{address}:{target}"),
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fixtures::Fixed;
    use serde_json::json;

    #[test]
    fn a_service_is_called_at_its_endpoints() {
        let service = json!({"metadata": {"name": "w", "namespace": "n"}, "spec": {"ports": [{"name": "s", "port": 443}]}});
        let slice = json!({
            "metadata": {"name": "w-1", "namespace": "n", "labels": {SERVICE_LABEL: "w"}},
            "ports": [{"name": "s", "port": 8443}],
            "endpoints": [{"addresses": ["10.1.1.1"]}, {"addresses": ["10.1.1.2"], "conditions": {"ready": false}}]});
        let objects = Fixed(vec![("services", service), ("endpointslices", slice)]);
        let found = Place::by_service(&objects, &json!({"name": "w", "namespace": "n", "path": "/x"}));
        let want = Place {
            host: "w.n.svc".into(),
            authority: "w.n.svc:443".into(),
            address: "10.1.1.1:8443".into(),
            path: "/x".into(),
        };
        assert_eq!(found, Ok(want));
        let other_port = json!({"name": "w", "namespace": "n", "port": 80});
        assert!(Place::by_service(&objects, &other_port).is_err());
        let missing = Place::by_service(&Fixed::default(), &json!({"name": "w", "namespace": "n"}));
        assert_eq!(missing, Err("service \"w\" not found".to_owned()));
    }

    #[test]
    fn urls() {
        let place = Place::by_url("https://example.com:8443/a").expect("a url");
        assert_eq!(
            (place.host.as_str(), place.address.as_str()),
            ("example.com", "example.com:8443")
        );
        assert_eq!(Place::by_url("https://[::1]/").expect("a url").host, "::1");
    }
}
