//! Manifests: what is accepted, tags, and who refers to whom (distribution-spec, "Pushing manifests", "Listing
//! referrers").

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde_json::{Value, json};

use super::blobs::blocking;
use super::disk::Disk;
use super::error::{ApiError, Code};
use super::names::{Digest, Name, Reference};
use super::{Registry, empty, method_not_allowed, query};

/// Largest manifest; the spec's own figure.
const MAX_MANIFEST_BYTES: usize = 4 << 20;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Everything on `/v2/NAME/manifests/REFERENCE`.
pub async fn answer(
    registry: &Registry,
    name: Name,
    reference: Reference,
    request: Request,
) -> Result<Response, ApiError> {
    let method = request.method().clone();
    match method {
        Method::GET | Method::HEAD => get(registry, name, reference, &method).await,
        Method::PUT => put(registry, name, reference, request).await,
        Method::DELETE => {
            let unknown = unknown(&name, &reference);
            let disk = registry.disk.clone();
            match blocking(move || disk.delete_manifest(&name, &reference)).await? {
                true => empty(StatusCode::ACCEPTED, &[]),
                false => Err(unknown),
            }
        }
        _ => Err(method_not_allowed(&method)),
    }
}

fn unknown(name: &Name, reference: &Reference) -> ApiError {
    let reference = match reference {
        Reference::Tag(tag) => format!("tag {tag}"),
        Reference::Digest(digest) => digest.to_string(),
    };
    ApiError::new(
        Code::ManifestUnknown,
        format!("{name} has no manifest {reference}"),
    )
}

async fn get(
    registry: &Registry,
    name: Name,
    reference: Reference,
    method: &Method,
) -> Result<Response, ApiError> {
    let unknown = unknown(&name, &reference);
    let disk = registry.disk.clone();
    let found = blocking(move || {
        let Some(digest) = disk.resolve(&name, &reference)? else {
            return Ok(None);
        };
        Ok(disk
            .manifest(&name, &digest)?
            .map(|(media_type, bytes)| (digest, media_type, bytes)))
    });
    let (digest, media_type, bytes) = found.await?.ok_or(unknown)?;
    let headers = [
        ("content-type", media_type),
        ("content-length", bytes.len().to_string()),
        ("docker-content-digest", digest.to_string()),
        ("etag", format!("\"{digest}\"")),
    ];
    let mut response = empty(StatusCode::OK, &headers)?;
    if *method == Method::GET {
        *response.body_mut() = Body::from(bytes);
    }
    Ok(response)
}

async fn put(
    registry: &Registry,
    name: Name,
    reference: Reference,
    request: Request,
) -> Result<Response, ApiError> {
    let content_type = media_type(request.headers());
    let too_large = |_| {
        ApiError::new(
            Code::SizeInvalid,
            format!("manifest exceeds {MAX_MANIFEST_BYTES} bytes"),
        )
    };
    let bytes = axum::body::to_bytes(request.into_body(), MAX_MANIFEST_BYTES)
        .await
        .map_err(too_large)?;
    let digest = Digest::of(&bytes);
    let tag = match reference {
        Reference::Tag(tag) => Some(tag),
        Reference::Digest(expected) if expected != digest => {
            return Err(ApiError::new(
                Code::DigestInvalid,
                format!("manifest is {digest}, not {expected}"),
            ));
        }
        Reference::Digest(_) => None,
    };
    let manifest = Manifest::parse(&bytes, content_type)?;
    let subject = manifest.subject.clone();
    let mut headers = vec![
        ("location", format!("/v2/{name}/manifests/{digest}")),
        ("docker-content-digest", digest.to_string()),
    ];
    headers.extend(subject.map(|subject| ("oci-subject", subject.to_string())));
    let disk = registry.disk.clone();
    let missing = blocking(move || {
        if let Some(missing) = manifest.missing(&disk, &name) {
            return Ok(Some(missing));
        }
        disk.put_manifest(&name, (&digest, &manifest.media_type, &bytes), tag.as_deref())?;
        if let Some(subject) = &manifest.subject {
            let descriptor = manifest.descriptor(&digest, bytes.len()).to_string();
            disk.put_referrer(&name, subject, &digest, descriptor.as_bytes())?;
        }
        Ok(None)
    });
    match missing.await? {
        Some(digest) => Err(ApiError::new(
            Code::ManifestBlobUnknown,
            format!("manifest names {digest}, which is not here"),
        )),
        None => empty(StatusCode::CREATED, &headers),
    }
}

/// The media type a client says it sends, without parameters.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next()?.trim().to_owned())
}

/// The parts of a manifest a registry looks at.
#[derive(Debug)]
struct Manifest {
    media_type: String,
    blobs: Vec<Digest>,
    manifests: Vec<Digest>,
    subject: Option<Digest>,
    artifact_type: Option<String>,
    annotations: Value,
}

impl Manifest {
    fn parse(bytes: &[u8], content_type: Option<String>) -> Result<Self, ApiError> {
        let invalid = |message: &str| ApiError::new(Code::ManifestInvalid, message);
        let value: Value = serde_json::from_slice(bytes).map_err(|error| invalid(&error.to_string()))?;
        if value["schemaVersion"] != 2 {
            return Err(invalid("schemaVersion must be 2"));
        }
        let declared = value["mediaType"].as_str().map(str::to_owned);
        if declared.is_some() && content_type.is_some() && declared != content_type {
            return Err(invalid("mediaType differs from Content-Type"));
        }
        let (image, index) = (
            value.get("layers").or(value.get("config")),
            value.get("manifests"),
        );
        let (blobs, manifests) = match (image, index) {
            (Some(_), Some(_)) => {
                return Err(invalid("both layers and manifests: ambiguous (CVE-2021-41190)"));
            }
            (None, None) => return Err(invalid("neither layers nor manifests")),
            (Some(_), None) => (blobs_of(&value)?, Vec::new()),
            (None, Some(index)) => (Vec::new(), digests(index)?),
        };
        let config_type = value["config"]["mediaType"].as_str();
        Ok(Self {
            media_type: declared
                .or(content_type)
                .ok_or_else(|| invalid("no media type"))?,
            blobs,
            manifests,
            subject: value["subject"]["digest"].as_str().map(str::parse).transpose()?,
            artifact_type: value["artifactType"].as_str().or(config_type).map(str::to_owned),
            annotations: value["annotations"].clone(),
        })
    }

    /// The first thing named that the repository does not have.
    fn missing(&self, disk: &Disk, name: &Name) -> Option<Digest> {
        let blob = self.blobs.iter().find(|digest| !disk.has_blob(name, digest));
        blob.or_else(|| {
            self.manifests
                .iter()
                .find(|digest| !disk.has_manifest(name, digest))
        })
        .cloned()
    }

    fn descriptor(&self, digest: &Digest, size: usize) -> Value {
        let mut descriptor =
            json!({ "mediaType": self.media_type, "digest": digest.to_string(), "size": size });
        if let Some(artifact_type) = &self.artifact_type {
            descriptor["artifactType"] = json!(artifact_type);
        }
        if self.annotations.is_object() {
            descriptor["annotations"] = self.annotations.clone();
        }
        descriptor
    }
}

/// Config and layers; a foreign layer's bytes live elsewhere by design.
fn blobs_of(manifest: &Value) -> Result<Vec<Digest>, ApiError> {
    let local = |layer: &&Value| layer["urls"].as_array().is_none_or(Vec::is_empty);
    let layers: Vec<Value> = manifest["layers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(local)
        .cloned()
        .collect();
    let mut blobs = digests(&Value::Array(layers))?;
    if let Some(config) = manifest.get("config") {
        blobs.extend(digests(&json!([config]))?);
    }
    Ok(blobs)
}

fn digests(descriptors: &Value) -> Result<Vec<Digest>, ApiError> {
    let invalid = || ApiError::new(Code::ManifestInvalid, "a descriptor without a digest");
    let list = descriptors.as_array().ok_or_else(invalid)?;
    list.iter()
        .map(|descriptor| descriptor["digest"].as_str().ok_or_else(invalid)?.parse())
        .collect()
}

/// `GET /v2/NAME/referrers/DIGEST`: an index of what refers to it, empty when nothing does.
pub async fn referrers(
    registry: &Registry,
    name: Name,
    subject: Digest,
    uri: &Uri,
) -> Result<Response, ApiError> {
    let disk = registry.disk.clone();
    let stored = blocking(move || disk.referrers(&name, &subject)).await?;
    let wanted = query(uri, "artifactType");
    let fits = |descriptor: &Value| {
        wanted
            .as_deref()
            .is_none_or(|wanted| descriptor["artifactType"] == wanted)
    };
    let descriptors: Vec<Value> = stored
        .iter()
        .filter_map(|bytes| serde_json::from_slice(bytes).ok())
        .filter(fits)
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors });
    let mut response = super::json(StatusCode::OK, index.to_string());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(INDEX));
    if wanted.is_some() {
        response
            .headers_mut()
            .insert("oci-filters-applied", HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}
