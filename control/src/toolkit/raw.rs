//! Any object as the JSON the API sent, and typed calls on top of it.
//!
//! `kube`'s typed client is generic down to the parser: each kind would be compiled once for lists, once for watch events
//! and once for answers. Here the transport is compiled once, and each kind only converts from JSON. It also keeps one
//! malformed object from breaking the watch of all others.
use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{DynamicResourceScope, ObjectMeta};
use kube::discovery::ApiResource;
use kube::{Api, Client, Resource};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::meta;
use crate::uri::escape;

/// A kind of object that can be read from JSON and written to it.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}

/// An object of any kind: its metadata and what of the rest somebody wanted.
#[derive(Clone, Debug)]
pub struct Any<B> {
    pub metadata: ObjectMeta,
    body: B,
}

/// An object as it came. Of its metadata there is only what a watch itself needs: name, namespace, uid, version.
pub type Raw = Any<Box<RawValue>>;

/// An object reduced to its metadata, without who owns its fields.
pub type Metadata = Any<()>;

/// What a watch needs of an object.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    metadata: Names,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Names {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}

impl Raw {
    /// The object as its type; the error names what does not fit.
    pub fn parse<K: DeserializeOwned>(&self) -> Result<K, serde_json::Error> {
        go_values::object::read(self.body.get())
    }

    pub fn of(object: &impl Serialize) -> Result<Self, serde_json::Error> {
        Self::read(to_raw_value(object)?)
    }

    fn read(body: Box<RawValue>) -> Result<Self, serde_json::Error> {
        let Head { metadata } = serde_json::from_str(body.get())?;
        let metadata = ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, body })
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Raw::read(Box::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.body.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Whole {
            #[serde(deserialize_with = "meta::light")]
            metadata: ObjectMeta,
        }
        let Whole { metadata } = Whole::deserialize(deserializer)?;
        Ok(Self { metadata, body: () })
    }
}

impl<B> Resource for Any<B> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The objects of one kind, in one namespace or everywhere. Names may have in them what would end a path: those of RBAC
/// objects `?` and `#`.
pub struct Objects<K> {
    api: Api<Raw>,
    kind: PhantomData<K>,
}

impl<K: Kind> Objects<K> {
    /// Of a cluster-scoped kind, or of all namespaces.
    pub fn all(client: &Client) -> Self {
        Self {
            api: Api::all_with(client.clone(), &ApiResource::erase::<K>(&())),
            kind: PhantomData,
        }
    }

    pub fn in_namespace(client: &Client, namespace: &str) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        let resource = ApiResource::erase::<K>(&());
        Self {
            api: Api::namespaced_with(client.clone(), namespace, &resource),
            kind: PhantomData,
        }
    }

    /// The untyped API, for watches.
    pub fn into_raw(self) -> Api<Raw> {
        self.api
    }

    pub async fn get_opt(&self, name: &str) -> Result<Option<K>, kube::Error> {
        self.api.get_opt(&escape(name)).await?.map(parse).transpose()
    }

    /// One page of a list, and the token of the next.
    pub async fn list(&self, page: &ListParams) -> Result<(Vec<K>, Option<String>), kube::Error> {
        let list = self.api.list(page).await?;
        let next = list.metadata.continue_.filter(|token| !token.is_empty());
        Ok((list.items.into_iter().map(parse).collect::<Result<_, _>>()?, next))
    }

    pub async fn create(&self, object: &impl Serialize) -> Result<K, kube::Error> {
        let object = Raw::of(object).map_err(kube::Error::SerdeError)?;
        parse(self.api.create(&PostParams::default(), &object).await?)
    }

    /// A JSON merge patch.
    pub async fn merge(&self, name: &str, body: Value) -> Result<K, kube::Error> {
        parse(
            self.api
                .patch(&escape(name), &PatchParams::default(), &Patch::Merge(body))
                .await?,
        )
    }

    /// A JSON merge patch of the status.
    pub async fn merge_status(&self, name: &str, body: Value) -> Result<K, kube::Error> {
        parse(
            self.api
                .patch_status(&escape(name), &PatchParams::default(), &Patch::Merge(body))
                .await?,
        )
    }

    /// A strategic merge patch of the status: lists merge by their keys.
    pub async fn strategic_status(&self, name: &str, body: Value) -> Result<(), kube::Error> {
        self.api
            .patch_status(&escape(name), &PatchParams::default(), &Patch::Strategic(body))
            .await
            .map(drop)
    }

    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<(), kube::Error> {
        self.api.delete(&escape(name), params).await.map(drop)
    }

    /// Posts to a subresource whose answer says no more than that it worked.
    pub async fn post(&self, subresource: &str, name: &str, body: &Value) -> Result<(), kube::Error> {
        let answer: Result<Value, kube::Error> = self
            .api
            .create_subresource(subresource, &escape(name), &PostParams::default(), body)
            .await;
        answer.map(drop)
    }
}

fn parse<K: DeserializeOwned>(raw: Raw) -> Result<K, kube::Error> {
    raw.parse().map_err(kube::Error::SerdeError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    /// Go writes its zero time as null; Services with one were unknown to all controllers.
    #[test]
    fn a_condition_without_a_time_is_understood() {
        let condition =
            json!({"type": "A", "status": "True", "reason": "r", "message": "", "lastTransitionTime": null});
        let service = json!({"metadata": {"name": "s"}, "status": {"conditions": [condition]}});
        let service: Service = Raw::of(&service).unwrap().parse().unwrap();
        assert_eq!(
            service
                .status
                .and_then(|status| status.conditions)
                .map(|all| all.len()),
            Some(1)
        );
    }
}
