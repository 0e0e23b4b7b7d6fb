//! The image of a container before it starts: pull policy, events, credentials. Refuses to know registries.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Secret};
use kube::Api;

use super::context::Context;
use super::credentials::{self, Credential};
use super::failure::StartFailure;
use super::progress;
use super::runtime;
use super::view::PodView;
use crate::events::Severity::{Normal, Warning};
use crate::images::{Access, Holder, Image, ImageKind, Images, PullError, Pulled, RegistryAuth};
use go_values::duration;

/// Makes the container's image present as its pull policy says; of one that is there for both runtimes, what the Pod's runtime
/// handler is for.
pub async fn ensure(
    ctx: &Context,
    pod: PodView<'_>,
    container: &Container,
    handler: &str,
) -> Result<Image, StartFailure> {
    let wish = Wish {
        image: container.image.as_deref().unwrap_or_default(),
        policy: container.image_pull_policy.as_deref(),
        kind: runtime::wanted(handler),
    };
    present(ctx, pod, container, wish).await
}

/// An image, when it is pulled, and what is taken where its index has both kinds.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    pub image: &'a str,
    pub policy: Option<&'a str>,
    pub kind: ImageKind,
}

/// Makes an image present that the container starts from, or has as a volume.
pub async fn present(
    ctx: &Context,
    pod: PodView<'_>,
    container: &Container,
    wish: Wish<'_>,
) -> Result<Image, StartFailure> {
    let name = wish.image;
    let present = ctx.images.find(name, wish.kind).map_err(|error| {
        let (reason, message) = uninspected(name, &error);
        ctx.recorder
            .container(pod, &container.name, Warning, "InspectFailed", message.clone());
        StartFailure::image(name, reason, message)
    })?;
    let event = |severity, reason, message| {
        ctx.recorder
            .container(pod, &container.name, severity, reason, message)
    };
    match (wish.policy, present) {
        (Some("Always"), _) => pull(ctx, pod, container, wish).await,
        (_, Some(image)) if is_allowed(ctx, pod, &image, name).await => {
            event(
                Normal,
                "Pulled",
                format!("Container image {name:?} already present on machine and can be accessed by the pod"),
            );
            Ok(image)
        }
        (Some("Never"), _) => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            event(Warning, "ErrImageNeverPull", message.clone());
            Err(StartFailure::image(name, "ErrImageNeverPull", message))
        }
        _ => pull(ctx, pod, container, wish).await,
    }
}

/// What is said of an image that is not known to be here or not: its name is none, or the store cannot be read.
fn uninspected(name: &str, error: &PullError) -> (&'static str, String) {
    match error {
        PullError::InvalidName { .. } => (error.reason(), error.to_string()),
        PullError::Failed { cause, .. } => (
            "ImageInspectError",
            format!("Failed to inspect image {name:?}: {cause}"),
        ),
    }
}

async fn pull(ctx: &Context, pod: PodView<'_>, c: &Container, wish: Wish<'_>) -> Result<Image, StartFailure> {
    let name = wish.image;
    let event = |severity, reason, message| ctx.recorder.container(pod, &c.name, severity, reason, message);
    event(Normal, "Pulling", format!("Pulling image {name:?}"));
    let credentials = credentials(ctx, pod, name).await;
    let begun = Instant::now();
    let pulling = with_any(&ctx.images, wish, &credentials);
    match progress::told(ctx, pod, c, name, pulling).await {
        Ok(pulled) => {
            event(Normal, "Pulled", success(name, &pulled, begun.elapsed()));
            Ok(pulled.image)
        }
        Err((reason, error)) => {
            event(
                Warning,
                "Failed",
                format!("Failed to pull image {name:?}: {error}"),
            );
            Err(StartFailure::image(name, reason, error))
        }
    }
}

/// What the event of a pull says. One that was joined may have waited before.
fn success(name: &str, pulled: &Pulled, took: Duration) -> String {
    format!(
        "Successfully pulled image {name:?} in {} ({} including waiting). Image size: {} bytes.",
        duration::print(took.saturating_sub(pulled.waited)),
        duration::print(took),
        pulled.image.size
    )
}

/// Pulls with the first credentials the registry takes, or with none when there are none; remembers whose the image is.
/// What failed is told of all of them, as reason and message.
async fn with_any(
    images: &Images,
    wish: Wish<'_>,
    credentials: &[Credential],
) -> Result<Pulled, (&'static str, String)> {
    let name = wish.image;
    let plain = |error: PullError| (error.reason(), error.to_string());
    if credentials.is_empty() {
        let pulled = images.pull_told(name, &RegistryAuth::Anonymous, wish.kind).await;
        let pulled = pulled.map_err(plain)?;
        images.admit(&pulled.image, name, None);
        return Ok(pulled);
    }
    let mut failures = Vec::new();
    for credential in credentials {
        match images.pull_told(name, &credential.auth, wish.kind).await {
            Ok(pulled) => {
                images.admit(&pulled.image, name, Some(&credential.holder));
                return Ok(pulled);
            }
            Err(error) => failures.push(plain(error)),
        }
    }
    failures.dedup();
    let texts: Vec<&str> = failures.iter().map(|(_, text)| text.as_str()).collect();
    match (&failures[..], texts.join(", ")) {
        ([(reason, _)], text) => Err((reason, text)),
        (_, texts) => Err(("ErrImagePull", format!("[{texts}]"))),
    }
}

/// Whether the Pod may use an image that is here: everyone may, or it shows a secret that the image was pulled with.
async fn is_allowed(ctx: &Context, pod: PodView<'_>, image: &Image, name: &str) -> bool {
    match ctx.images.access(image, name) {
        Ok(Access::Everyone) => true,
        Ok(Access::Holders) => {
            let shown = credentials(ctx, pod, name).await.into_iter();
            let shown: Vec<Holder> = shown.map(|credential| credential.holder).collect();
            ctx.images.is_held(image, name, &shown)
        }
        Err(_) => false,
    }
}

/// Credentials for the image from the Pod's `imagePullSecrets`, in the order to try them.
async fn credentials(ctx: &Context, pod: PodView<'_>, image: &str) -> Vec<Credential> {
    let secrets: Api<Secret> = Api::namespaced(ctx.options.client.clone(), pod.namespace());
    let mut found = Vec::new();
    for reference in pod.spec.image_pull_secrets.iter().flatten() {
        match secrets.get_opt(&reference.name).await {
            Ok(secret @ Some(_)) => found.extend(secret),
            Ok(None) => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                ctx.recorder
                    .pod(pod, Warning, "FailedToRetrieveImagePullSecret", message);
            }
            Err(error) => tracing::warn!(%error, secret = reference.name, "cannot read an image pull secret"),
        }
    }
    match ctx.images.repository(image) {
        Ok(repository) => credentials::fitting(&found, &repository),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::StoreError;

    #[test]
    fn an_image_that_cannot_be_looked_at() {
        let store = PullError::Failed {
            reference: "r.example/a:1".into(),
            cause: std::sync::Arc::new(StoreError::Key("k".into()).into()),
        };
        let (reason, message) = uninspected("a", &store);
        let words = "Failed to inspect image \"a\": snapshot key \"k\" is not a plain name";
        assert_eq!((reason, message.as_str()), ("ImageInspectError", words));
    }
}
