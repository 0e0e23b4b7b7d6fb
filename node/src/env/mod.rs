//! The environment of a container: what `env`, `envFrom` and Services make of it, as the API documents.
//! Pure once the referenced objects are fetched. Refuses to know images and runtimes.

pub mod expand;
pub mod fields;
mod files;
pub mod objects;
pub mod services;

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{
    ConfigMapKeySelector, Container, EnvFromSource, EnvVar, EnvVarSource, SecretKeySelector, Service,
};

pub use fields::{FieldError, PodFacts};
pub use objects::{Objects, ObjectsError};

/// Why an environment cannot be made: `CreateContainerConfigError` with upstream's words.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum EnvError {
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    #[error("secret {0:?} not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey {
        key: String,
        namespace: String,
        name: String,
    },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey {
        key: String,
        namespace: String,
        name: String,
    },
    #[error("secret {namespace}/{name} key {key} is not UTF-8 text, which an environment variable must be")]
    NotText {
        key: String,
        namespace: String,
        name: String,
    },
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    NoVolume(String),
    #[error("couldn't parse env file")]
    File,
    #[error("environment variable key {key:?} not found in file {file:?}")]
    NoFileKey { key: String, file: String },
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("environment variable {0} has a source this node does not support")]
    Unsupported(String),
}

/// Variables in the order they are given to the process; a later one of the same name has replaced the earlier.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Environment {
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        if self.values.insert(name.clone(), value.into()).is_none() {
            self.order.push(name);
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.order
            .iter()
            .map(|name| (name.as_str(), self.values[name].as_str()))
    }

    /// `NAME=value` words over the image's, which these override.
    pub fn over(&self, image: &[String]) -> Vec<String> {
        let mut all = Environment::default();
        for word in image {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            all.set(name, value);
        }
        self.iter().for_each(|(name, value)| all.set(name, value));
        all.iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

/// What an environment is made from.
pub struct Sources<'a> {
    pub facts: &'a PodFacts<'a>,
    pub objects: &'a Objects,
    /// Services the Pod may see: its namespace's, and `default/kubernetes`.
    pub services: &'a [std::sync::Arc<Service>],
    /// Where the Pod's volumes are.
    pub volumes: &'a Path,
}

/// Makes the environment of one container: Services lowest, then `envFrom`, then `env`.
pub fn environment(container: &Container, sources: &Sources<'_>) -> Result<Environment, EnvError> {
    let mut made = Environment::default();
    let namespace = sources.facts.pod.namespace();
    let links = sources.facts.pod.spec.enable_service_links.unwrap_or(true);
    let of_services = services::variables(sources.services, namespace, links);
    for from in container.env_from.iter().flatten() {
        add_all(from, sources, &mut made)?;
    }
    for variable in container.env.iter().flatten() {
        add_one(container, variable, sources, &of_services, &mut made)?;
    }
    for (name, value) in of_services {
        if made.get(&name).is_none() {
            made.set(name, value);
        }
    }
    Ok(made)
}

fn add_all(from: &EnvFromSource, sources: &Sources<'_>, made: &mut Environment) -> Result<(), EnvError> {
    let prefix = from.prefix.as_deref().unwrap_or_default();
    if let Some(source) = &from.config_map_ref {
        match sources.objects.config_map(&source.name) {
            Some(map) => map
                .data
                .iter()
                .flatten()
                .for_each(|(k, v)| made.set(format!("{prefix}{k}"), v)),
            None if source.optional == Some(true) => {}
            None => return Err(EnvError::NoConfigMap(source.name.clone())),
        }
    }
    if let Some(source) = &from.secret_ref {
        match sources.objects.secret(&source.name) {
            Some(secret) => {
                for (key, bytes) in secret.data.iter().flatten() {
                    made.set(
                        format!("{prefix}{key}"),
                        text(sources, &source.name, key, &bytes.0)?,
                    );
                }
            }
            None if source.optional == Some(true) => {}
            None => return Err(EnvError::NoSecret(source.name.clone())),
        }
    }
    Ok(())
}

fn text(sources: &Sources<'_>, name: &str, key: &str, bytes: &[u8]) -> Result<String, EnvError> {
    let namespace = sources.facts.pod.namespace().to_owned();
    String::from_utf8(bytes.to_vec()).map_err(|_| EnvError::NotText {
        key: key.into(),
        namespace,
        name: name.into(),
    })
}

fn add_one(
    container: &Container,
    variable: &EnvVar,
    sources: &Sources<'_>,
    of_services: &BTreeMap<String, String>,
    made: &mut Environment,
) -> Result<(), EnvError> {
    let value = match &variable.value_from {
        Some(source) => from_source(container, &variable.name, source, sources)?,
        None => {
            let lookup = |name: &str| {
                made.get(name)
                    .map(str::to_owned)
                    .or_else(|| of_services.get(name).cloned())
            };
            Some(expand::expand(
                variable.value.as_deref().unwrap_or_default(),
                lookup,
            ))
        }
    };
    if let Some(value) = value {
        made.set(&variable.name, value);
    }
    Ok(())
}

fn from_source(
    container: &Container,
    variable: &str,
    source: &EnvVarSource,
    sources: &Sources<'_>,
) -> Result<Option<String>, EnvError> {
    if let Some(field) = &source.field_ref {
        return Ok(Some(fields::field(sources.facts, &field.field_path)?));
    }
    if let Some(resource) = &source.resource_field_ref {
        return Ok(Some(fields::resource(sources.facts, resource, Some(container))?));
    }
    if let Some(key) = &source.config_map_key_ref {
        return optional(key.optional, map_key(key, sources));
    }
    if let Some(key) = &source.secret_key_ref {
        return optional(key.optional, secret_key(key, sources));
    }
    if let Some(key) = &source.file_key_ref {
        return files::value(key, sources);
    }
    Err(EnvError::Unsupported(variable.to_owned()))
}

/// What is missing is no variable where the reference is optional.
fn optional(optional: Option<bool>, found: Result<String, EnvError>) -> Result<Option<String>, EnvError> {
    use EnvError::{NoConfigMap, NoConfigMapKey, NoSecret, NoSecretKey};
    match found {
        Err(NoConfigMap(_) | NoSecret(_) | NoConfigMapKey { .. } | NoSecretKey { .. })
            if optional == Some(true) =>
        {
            Ok(None)
        }
        found => found.map(Some),
    }
}

fn map_key(key: &ConfigMapKeySelector, sources: &Sources<'_>) -> Result<String, EnvError> {
    let map = sources
        .objects
        .config_map(&key.name)
        .ok_or_else(|| EnvError::NoConfigMap(key.name.clone()))?;
    map.data
        .as_ref()
        .and_then(|data| data.get(&key.key))
        .cloned()
        .ok_or_else(|| EnvError::NoConfigMapKey {
            key: key.key.clone(),
            namespace: sources.facts.pod.namespace().to_owned(),
            name: key.name.clone(),
        })
}

fn secret_key(key: &SecretKeySelector, sources: &Sources<'_>) -> Result<String, EnvError> {
    let secret = sources
        .objects
        .secret(&key.name)
        .ok_or_else(|| EnvError::NoSecret(key.name.clone()))?;
    match secret.data.as_ref().and_then(|data| data.get(&key.key)) {
        Some(bytes) => text(sources, &key.name, &key.key, &bytes.0),
        None => Err(EnvError::NoSecretKey {
            key: key.key.clone(),
            namespace: sources.facts.pod.namespace().to_owned(),
            name: key.name.clone(),
        }),
    }
}

#[cfg(test)]
mod tests;
