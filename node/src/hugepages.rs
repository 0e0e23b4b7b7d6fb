//! Huge pages (Concepts, Manage HugePages): which sizes this machine has, how much is set aside for each, which a volume is made
//! of, and what a size is called in the API and in cgroups.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// A directory for each size: `hugepages-2048kB`.
const POOLS: &str = "/sys/kernel/mm/hugepages";
/// Of resources, and of those directories.
const PREFIX: &str = "hugepages-";
/// `emptyDir.medium`, alone or with `-2Mi`.
pub const MEDIUM: &str = "HugePages";

/// The pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Bytes of a page.
    pub page: u64,
    /// Bytes that are set aside.
    pub bytes: u64,
}

/// A volume's medium that the Pod cannot have, in upstream's words.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum MediumError {
    #[error("medium: {0} can't be used if container requests multiple huge page sizes")]
    Several(String),
    #[error("medium {0}: hugePages storage requested, but there is no resource request for huge pages")]
    None(String),
}

/// What this machine has set aside, the smallest pages first.
pub fn pools() -> Vec<Pool> {
    pools_in(Path::new(POOLS))
}

fn pools_in(dir: &Path) -> Vec<Pool> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<Pool> = entries.filter_map(|entry| pool(&entry.path())).collect();
    found.sort_by_key(|pool| pool.page);
    found
}

fn pool(dir: &Path) -> Option<Pool> {
    let size = dir.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    let page = size.strip_suffix("kB")?.parse::<u64>().ok()?.checked_mul(1024)?;
    let pages = fs::read_to_string(dir.join("nr_hugepages")).ok()?;
    let bytes = page.saturating_mul(pages.trim().parse().ok()?);
    Some(Pool { page, bytes })
}

/// `hugepages-2Mi`.
pub fn resource(page: u64) -> String {
    format!("{PREFIX}{}", quantity::of_bytes(page).0)
}

/// Bytes of a page of this resource, if it is one of huge pages.
fn page_of(resource: &str) -> Option<u64> {
    let size = Quantity(resource.strip_prefix(PREFIX)?.to_owned());
    u64::try_from(quantity::value(&size)?).ok()
}

pub fn are_asked_for(container: &Container) -> bool {
    let resources = container.resources.iter();
    resources.flat_map(requested).next().is_some()
}

/// The limit of each of these sizes as cgroups name them (`2MB`); none is given of sizes that are not asked for.
pub fn limits(pools: &[Pool], container: &Container) -> Vec<(String, i64)> {
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let limit = |page| {
        let asked = limits.and_then(|limits| limits.get(&resource(page)));
        asked.and_then(quantity::value).unwrap_or(0)
    };
    pools
        .iter()
        .map(|pool| (in_cgroups(pool.page), limit(pool.page)))
        .collect()
}

fn in_cgroups(page: u64) -> String {
    match page {
        page if page >= 1 << 30 => format!("{}GB", page >> 30),
        page if page >= 1 << 20 => format!("{}MB", page >> 20),
        page => format!("{}KB", page >> 10),
    }
}

/// Bytes of the pages that a volume is made of: those its medium names, or those the Pod asks for.
pub fn of_volume(medium: &str, spec: &PodSpec) -> Result<u64, MediumError> {
    let own = medium
        .strip_prefix(MEDIUM)
        .and_then(|size| size.strip_prefix('-'));
    let own = own.and_then(|size| page_of(&format!("{PREFIX}{size}")));
    let of_containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let all = spec
        .resources
        .iter()
        .chain(of_containers.filter_map(|c| c.resources.as_ref()));
    let mut asked: Vec<u64> = all.flat_map(requested).collect();
    asked.retain(|page| medium == MEDIUM || Some(*page) == own);
    asked.sort_unstable();
    asked.dedup();
    match asked[..] {
        [] => Err(MediumError::None(medium.to_owned())),
        [page] => Ok(page),
        _ => Err(MediumError::Several(medium.to_owned())),
    }
}

fn requested(resources: &ResourceRequirements) -> impl Iterator<Item = u64> + '_ {
    resources
        .requests
        .iter()
        .flatten()
        .filter_map(|(name, _)| page_of(name))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn pools_are_read_with_their_sizes() {
        let dir = tempfile::tempdir().unwrap();
        for (name, pages) in [
            ("hugepages-1048576kB", "0\n"),
            ("hugepages-2048kB", "3\n"),
            ("other", "1"),
        ] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("nr_hugepages"), pages).unwrap();
        }
        let found = pools_in(dir.path());
        let pool = |page, bytes| Pool { page, bytes };
        assert_eq!(found, [pool(2 << 20, 6 << 20), pool(1 << 30, 0)]);
        assert_eq!(
            found.iter().map(|p| resource(p.page)).collect::<Vec<_>>(),
            ["hugepages-2Mi", "hugepages-1Gi"]
        );
        assert_eq!(pools_in(Path::new("/nonexistent")), []);
        let container: Container =
            serde_json::from_value(json!({"name": "c", "resources": {"limits": {"hugepages-2Mi": "4Mi"}}}))
                .unwrap();
        let limits = limits(&found, &container);
        assert_eq!(limits, [("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)]);
    }

    #[test]
    fn a_volume_is_made_of_what_the_pod_asks_for() {
        let of = |medium: &str, requests: &[Value]| {
            let container = |r: &Value| json!({"name": "c", "resources": {"requests": r}});
            let containers: Vec<Value> = requests.iter().map(container).collect();
            let spec = serde_json::from_value(json!({"containers": containers})).unwrap();
            of_volume(medium, &spec).map_err(|error| error.to_string())
        };
        let (small, large) = (
            json!({"hugepages-2Mi": "4Mi", "cpu": "1"}),
            json!({"hugepages-1Gi": "1Gi"}),
        );
        assert_eq!(of("HugePages", &[small.clone(), small.clone()]), Ok(2 << 20));
        assert_eq!(of("HugePages-1Gi", &[small.clone(), large.clone()]), Ok(1 << 30));
        let none = "medium HugePages-1Gi: hugePages storage requested, but there is no resource request for huge pages";
        assert_eq!(
            of("HugePages-1Gi", std::slice::from_ref(&small)),
            Err(none.to_owned())
        );
        let several = "medium: HugePages can't be used if container requests multiple huge page sizes";
        assert_eq!(of("HugePages", &[small, large]), Err(several.to_owned()));
    }
}
