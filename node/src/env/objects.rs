//! ConfigMaps and Secrets a Pod refers to: which, and their fetching. Asks for each by name, as a node may.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Secret, Volume};
use kube::{Api, Client};

use crate::volumes::tokens::Wish;

/// Names of objects in the Pod's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

/// The objects that exist, by name.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    config_maps: BTreeMap<String, ConfigMap>,
    secrets: BTreeMap<String, Secret>,
    tokens: BTreeMap<Wish, String>,
}

/// The API could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    #[error("failed to fetch {kind} {name:?}: {source}")]
    Fetch {
        kind: &'static str,
        name: String,
        source: Box<kube::Error>,
    },
}

impl Objects {
    pub fn new(config_maps: BTreeMap<String, ConfigMap>, secrets: BTreeMap<String, Secret>) -> Self {
        Objects {
            config_maps,
            secrets,
            tokens: BTreeMap::new(),
        }
    }

    /// With ServiceAccount tokens beside them.
    pub fn with_tokens(self, tokens: BTreeMap<Wish, String>) -> Self {
        Objects { tokens, ..self }
    }

    pub fn token(&self, wish: &Wish) -> Option<&str> {
        self.tokens.get(wish).map(String::as_str)
    }

    pub fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.config_maps.get(name)
    }

    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name)
    }
}

impl Names {
    /// What a container's environment refers to.
    pub fn of_environment(container: &Container) -> Names {
        let mut names = Names::default();
        for from in container.env_from.iter().flatten() {
            names
                .config_maps
                .extend(from.config_map_ref.iter().map(|r| r.name.clone()));
            names
                .secrets
                .extend(from.secret_ref.iter().map(|r| r.name.clone()));
        }
        for source in container
            .env
            .iter()
            .flatten()
            .filter_map(|v| v.value_from.as_ref())
        {
            names
                .config_maps
                .extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
            names
                .secrets
                .extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
        }
        names
    }

    /// What a volume refers to.
    pub fn of_volume(volume: &Volume) -> Names {
        let mut names = Names::default();
        names
            .config_maps
            .extend(volume.config_map.iter().map(|s| s.name.clone()));
        names
            .secrets
            .extend(volume.secret.iter().filter_map(|s| s.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            names
                .config_maps
                .extend(source.config_map.iter().map(|s| s.name.clone()));
            names.secrets.extend(source.secret.iter().map(|s| s.name.clone()));
        }
        names
    }

    pub fn extend(&mut self, other: Names) {
        self.config_maps.extend(other.config_maps);
        self.secrets.extend(other.secrets);
    }

    /// Gets each object; one that does not exist is simply not among them.
    pub async fn fetch(&self, client: &Client, namespace: &str) -> Result<Objects, ObjectsError> {
        let mut objects = Objects::default();
        let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        for name in &self.config_maps {
            if let Some(found) = get(&config_maps, "configmap", name).await? {
                objects.config_maps.insert(name.clone(), found);
            }
        }
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        for name in &self.secrets {
            if let Some(found) = get(&secrets, "secret", name).await? {
                objects.secrets.insert(name.clone(), found);
            }
        }
        Ok(objects)
    }
}

async fn get<K>(api: &Api<K>, kind: &'static str, name: &str) -> Result<Option<K>, ObjectsError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    api.get_opt(name).await.map_err(|source| ObjectsError::Fetch {
        kind,
        name: name.to_owned(),
        source: Box::new(source),
    })
}
