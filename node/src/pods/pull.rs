//! The image of a container before it starts: pull policy, events, credentials. Refuses to know registries.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Container, Secret};
use kube::Api;

use super::context::Context;
use super::failure::StartFailure;
use super::view::PodView;
use crate::events::Severity::{Normal, Warning};
use crate::images::{Image, PullError, RegistryAuth};

/// Makes the container's image present as its pull policy says.
pub async fn ensure(ctx: &Context, pod: PodView<'_>, container: &Container) -> Result<Image, StartFailure> {
    let wish = Wish {
        image: container.image.as_deref().unwrap_or_default(),
        policy: container.image_pull_policy.as_deref(),
    };
    present(ctx, pod, container, wish).await
}

/// An image, and when it is pulled.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    pub image: &'a str,
    pub policy: Option<&'a str>,
}

/// Makes an image present that the container starts from, or has as a volume.
pub async fn present(
    ctx: &Context,
    pod: PodView<'_>,
    container: &Container,
    wish: Wish<'_>,
) -> Result<Image, StartFailure> {
    let name = wish.image;
    let present = ctx
        .images
        .find(name)
        .map_err(|error| invalid(ctx, pod, container, &error))?;
    let event = |severity, reason, message| {
        ctx.recorder
            .container(pod, &container.name, severity, reason, message)
    };
    match (wish.policy, present) {
        (Some("Never") | Some("IfNotPresent") | None, Some(image)) => {
            event(
                Normal,
                "Pulled",
                format!("Container image {name:?} already present on machine and can be accessed by the pod"),
            );
            Ok(image)
        }
        (Some("Never"), None) => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            event(Warning, "ErrImageNeverPull", message.clone());
            Err(StartFailure::image("ErrImageNeverPull", message))
        }
        _ => pull(ctx, pod, container, name).await,
    }
}

fn invalid(ctx: &Context, pod: PodView<'_>, container: &Container, error: &PullError) -> StartFailure {
    ctx.recorder
        .container(pod, &container.name, Warning, "InspectFailed", error.to_string());
    StartFailure::image(error.reason(), error.to_string())
}

async fn pull(ctx: &Context, pod: PodView<'_>, c: &Container, name: &str) -> Result<Image, StartFailure> {
    let event = |severity, reason, message| ctx.recorder.container(pod, &c.name, severity, reason, message);
    event(Normal, "Pulling", format!("Pulling image {name:?}"));
    let auth = credentials(ctx, pod, name).await;
    let begun = Instant::now();
    match ctx.images.pull(name, &auth).await {
        Ok(image) => {
            let took = format!("{:.3}s", begun.elapsed().as_secs_f64());
            let message = format!(
                "Successfully pulled image {name:?} in {took} ({took} including waiting). Image size: {} bytes.",
                image.size
            );
            event(Normal, "Pulled", message);
            Ok(image)
        }
        Err(error) => {
            event(
                Warning,
                "Failed",
                format!("Failed to pull image {name:?}: {error}"),
            );
            Err(StartFailure::image(error.reason(), error.to_string()))
        }
    }
}

/// Credentials for the image's registry from the Pod's `imagePullSecrets`; anonymous when none fits.
async fn credentials(ctx: &Context, pod: PodView<'_>, image: &str) -> RegistryAuth {
    let secrets: Api<Secret> = Api::namespaced(ctx.options.client.clone(), pod.namespace());
    for reference in pod.spec.image_pull_secrets.iter().flatten() {
        match secrets.get_opt(&reference.name).await {
            Ok(Some(secret)) => {
                if let Some(auth) = from_secret(&secret, image) {
                    return auth;
                }
            }
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
    RegistryAuth::Anonymous
}

/// `kubernetes.io/dockerconfigjson`: `{"auths": {"registry": {"auth": base64(user:password)}}}`.
fn from_secret(secret: &Secret, image: &str) -> Option<RegistryAuth> {
    let data = secret.data.as_ref()?.get(".dockerconfigjson")?;
    let config: serde_json::Value = serde_json::from_slice(&data.0).ok()?;
    let fits = |registry: &str| {
        let bare = registry
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .trim_end_matches('/');
        image == bare || image.strip_prefix(bare).is_some_and(|rest| rest.starts_with('/'))
    };
    let (_, entry) = config
        .get("auths")?
        .as_object()?
        .iter()
        .find(|(registry, _)| fits(registry))?;
    let text = |name: &str| entry.get(name).and_then(|v| v.as_str()).map(str::to_owned);
    if let (Some(user), Some(password)) = (text("username"), text("password")) {
        return Some(RegistryAuth::Basic(user, password));
    }
    // k8s-openapi's ByteString reads standard base64, as the field holds.
    let decoded: k8s_openapi::ByteString =
        serde_json::from_value(serde_json::Value::String(text("auth")?)).ok()?;
    let pair = String::from_utf8(decoded.0).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some(RegistryAuth::Basic(user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pull_secrets_are_for_their_registry_only() {
        let config = json!({"auths": {"https://r.example/": {"auth": "dTpw"},
            "q.example/team": {"username": "a", "password": "b"}}});
        let data = k8s_openapi::ByteString(serde_json::to_vec(&config).unwrap());
        let secret = Secret {
            data: Some([(".dockerconfigjson".to_owned(), data)].into()),
            ..Secret::default()
        };
        let basic = |u: &str, p: &str| Some(format!("{:?}", RegistryAuth::Basic(u.into(), p.into())));
        for (image, expected) in [
            ("r.example/x:1", basic("u", "p")),
            ("q.example/team/x", basic("a", "b")),
            ("q.example/other/x", None),
            ("r.example.evil/x", None),
        ] {
            assert_eq!(
                from_secret(&secret, image).map(|a| format!("{a:?}")),
                expected,
                "{image}"
            );
        }
    }
}
