//! For whom a node may have tokens made: those that a Pod's volumes ask for, or whom it has a right to (KEP-4412). A volume
//! asks for what its projection names, or the driver that serves it.
use super::node::Judgement;
use super::{Write, forbidden};
use crate::auth::attributes::{Attributes, Resource};
use crate::auth::tokens::ISSUER;
use crate::auth::{Authorizer, Reader};
use serde_json::Value;
use std::collections::BTreeSet;

/// Volumes that are served by drivers which they do not name.
const DRIVERS: [(&str, &str); 7] = [
    ("awsElasticBlockStore", "ebs.csi.aws.com"),
    ("azureDisk", "disk.csi.azure.com"),
    ("azureFile", "file.csi.azure.com"),
    ("cinder", "cinder.csi.openstack.org"),
    ("gcePersistentDisk", "pd.csi.storage.gke.io"),
    ("portworxVolume", "pxd.portworx.com"),
    ("vsphereVolume", "csi.vsphere.vmware.com"),
];

pub(super) fn check(
    authorizer: &Authorizer,
    reader: &dyn Reader,
    write: &Write<'_>,
    pod: &Value,
) -> Judgement {
    let audiences = write.new["spec"]["audiences"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let wanted = match audiences {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return forbidden("node may only request 0 or 1 audiences"),
    };
    match (Volumes { reader, pod }).ask_for(wanted) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(why) => return forbidden(format!("error validating audience {wanted:?}: {why}")),
    }
    let right = Resource {
        resource: wanted,
        namespace: write.namespace,
        name: Some(write.name),
        ..Resource::default()
    };
    let right = Attributes::resource("request-serviceaccounts-token-audience", right);
    match authorizer.allows(write.who, &right) {
        true => Ok(()),
        false => forbidden(format!(
            "audience {wanted:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            write.who.user
        )),
    }
}

/// The volumes of a Pod.
struct Volumes<'a> {
    reader: &'a dyn Reader,
    pod: &'a Value,
}

impl Volumes<'_> {
    /// Whether one asks for this audience; where none does, what could not be found out.
    fn ask_for(&self, wanted: &str) -> Result<bool, String> {
        let mut missing = Vec::new();
        for volume in self.pod["spec"]["volumes"].as_array().into_iter().flatten() {
            let asks = match projects(volume, wanted) {
                true => Ok(true),
                false => self
                    .driver(volume)
                    .and_then(|driver| self.driver_asks(driver, wanted)),
            };
            match asks {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(why) => missing.push(why),
            }
        }
        let mut told = BTreeSet::new();
        missing.retain(|why| told.insert(why.clone()));
        match missing.as_slice() {
            [] => Ok(false),
            [one] => Err(one.clone()),
            all => Err(format!("[{}]", all.join(", "))),
        }
    }

    /// The driver that serves a volume, if one does.
    fn driver(&self, volume: &Value) -> Result<Option<String>, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if volume["ephemeral"]["volumeClaimTemplate"].is_object() {
            let pod = text(&self.pod["metadata"]["name"]);
            return self.driver_of_claim(&format!("{pod}-{}", text(&volume["name"])));
        }
        match volume["persistentVolumeClaim"]["claimName"].as_str() {
            Some(claim) => self.driver_of_claim(claim),
            None => Ok(own_driver(volume)),
        }
    }

    fn driver_of_claim(&self, name: &str) -> Result<Option<String>, String> {
        let namespace = self.pod["metadata"]["namespace"].as_str();
        let claim = self.reader.get(("", "persistentvolumeclaims"), namespace, name);
        let claim = claim.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
        let name = claim["spec"]["volumeName"].as_str().unwrap_or_default();
        let volume = self.reader.get(("", "persistentvolumes"), None, name);
        let volume = volume.ok_or_else(|| format!("persistentvolume {name:?} not found"))?;
        Ok(own_driver(&volume["spec"]))
    }

    fn driver_asks(&self, driver: Option<String>, wanted: &str) -> Result<bool, String> {
        let Some(name) = driver else { return Ok(false) };
        let driver = self.reader.get(("storage.k8s.io", "csidrivers"), None, &name);
        let driver = driver.ok_or_else(|| format!("csidriver.storage.k8s.io {name:?} not found"))?;
        let mut tokens = driver["spec"]["tokenRequests"].as_array().into_iter().flatten();
        Ok(tokens.any(|token| is(token, wanted)))
    }
}

/// The driver that a volume names, or is of.
fn own_driver(volume: &Value) -> Option<String> {
    let named = volume["csi"]["driver"].as_str().filter(|name| !name.is_empty());
    let of = || DRIVERS.iter().find(|(source, _)| volume[source].is_object());
    named
        .or_else(|| of().map(|(_, driver)| *driver))
        .map(str::to_owned)
}

fn projects(volume: &Value, wanted: &str) -> bool {
    let mut sources = volume["projected"]["sources"].as_array().into_iter().flatten();
    sources.any(|source| {
        let token = &source["serviceAccountToken"];
        token.is_object() && is(token, wanted)
    })
}

/// Without an audience it is the API server's own that is meant, which the request has been given by now.
fn is(token: &Value, wanted: &str) -> bool {
    match token["audience"].as_str() {
        None | Some("") => ["", ISSUER].contains(&wanted),
        Some(asked) => asked == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::node::{References, VolumeSecrets};
    use super::super::super::reader::{GroupResource, Stored};
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    struct Fixed;

    impl Reader for Fixed {
        fn changed(&self, _: GroupResource) -> u64 {
            0
        }

        fn list(&self, _: GroupResource) -> Vec<Stored> {
            Vec::new()
        }

        fn get(&self, resource: GroupResource, _: Option<&str>, name: &str) -> Option<Value> {
            Some(match (resource.1, name) {
                ("csidrivers", "d") => json!({"spec": {"tokenRequests": [{"audience": "vault"}, {}]}}),
                ("persistentvolumeclaims", "c" | "p-made") => json!({"spec": {"volumeName": "v"}}),
                ("persistentvolumeclaims", "unbound") => json!({"spec": {}}),
                ("persistentvolumes", "v") => json!({"spec": {"csi": {"driver": "d"}}}),
                _ => return None,
            })
        }

        fn references_on(&self, _: &str, _: &str) -> Vec<Arc<References>> {
            Vec::new()
        }

        fn volume_secrets(&self) -> Vec<Arc<VolumeSecrets>> {
            Vec::new()
        }
    }

    #[test]
    fn volumes_ask_for_audiences_themselves_or_by_their_drivers() {
        let own = json!({"projected": {"sources": [{"serviceAccountToken": {}}]}});
        let named =
            json!({"projected": {"sources": [{"secret": {}}, {"serviceAccountToken": {"audience": "a"}}]}});
        let claim = |name: &str| json!({"persistentVolumeClaim": {"claimName": name}});
        let inline = |driver: &str| json!({"csi": {"driver": driver}});
        let nobody = "csidriver.storage.k8s.io \"e\" not found";
        for (volumes, wanted, want) in [
            (json!([]), "vault", Ok(false)),
            (json!([own]), ISSUER, Ok(true)),
            (json!([own, named]), "a", Ok(true)),
            (json!([own, named]), "vault", Ok(false)),
            (json!([inline("d")]), "vault", Ok(true)),
            (json!([inline("d")]), ISSUER, Ok(true)),
            (json!([inline("d")]), "a", Ok(false)),
            (json!([claim("c")]), "vault", Ok(true)),
            (
                json!([{"name": "made", "ephemeral": {"volumeClaimTemplate": {}}}]),
                "vault",
                Ok(true),
            ),
            (json!([inline("e"), claim("c")]), "vault", Ok(true)),
            (json!([inline("e"), inline("e")]), "vault", Err(nobody.to_owned())),
            (
                json!([inline("e"), claim("unbound")]),
                "vault",
                Err(format!("[{nobody}, persistentvolume \"\" not found]")),
            ),
            (
                json!([claim("none")]),
                "vault",
                Err("persistentvolumeclaim \"none\" not found".to_owned()),
            ),
            (
                json!([{"gcePersistentDisk": {"pdName": "x"}}]),
                "vault",
                Err("csidriver.storage.k8s.io \"pd.csi.storage.gke.io\" not found".to_owned()),
            ),
        ] {
            let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"volumes": volumes}});
            let reader = &Fixed;
            assert_eq!(Volumes { reader, pod: &pod }.ask_for(wanted), want, "{pod}");
        }
    }
}
