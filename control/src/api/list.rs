//! `list`: a consistent set of objects, whole or in pages.
use super::Call;
use super::cache::{Scope, indexed_field};
use super::convert;
use super::held;
use super::negotiate::{Accepted, Format, Shape};
use super::object::{self, Object};
use super::query::{Query, VersionMatch};
use super::render::{self, META_V1, Style};
use super::route::Target;
use super::selectors::{FieldSelector, LabelSelector};
use super::status::{ApiError, Result};
use super::token::Position;
use crate::kinds::{Kind, protobuf};
use crate::store::{Range, ReadError, Revision};
use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A large list goes out in pieces of about this size, so that it is never in memory twice; allocators map larger ones
/// anew each time.
const PIECE: usize = 64 << 10;
/// Room beyond it for the object that fills a piece.
const LAST_OBJECT: usize = 8 << 10;

const METADATA_LIST: &str = "PartialObjectMetadataList";

/// What a request selects.
#[derive(Clone, Debug)]
pub struct Selection {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

impl Selection {
    pub fn of(kind: &Kind, query: &Query) -> Result<Self> {
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default())?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())?;
        for field in fields.fields() {
            if !kind.supports_field_label(field) {
                return Err(ApiError::bad_request(unknown_label(kind, field)));
            }
        }
        Ok(Selection { labels, fields })
    }

    /// What the keys of all that is selected begin with: one object's key when it is named.
    pub fn prefix(&self, target: &Target) -> String {
        match self.fields.exact("metadata.name") {
            Some(name) if !target.kind.namespaced || target.namespace.is_some() => target.key(name),
            _ => target.prefix(),
        }
    }

    /// The part of a resource that is asked for; its filter is none where a converter decides what is selected.
    pub fn scope(self, target: &Target) -> Scope {
        let kind = target.kind.clone();
        let value = indexed_field(&kind).and_then(|field| self.fields.exact(field));
        let value = value.filter(|value| !value.is_empty()).map(str::to_owned);
        let prefix = self.prefix(target);
        let all = kind.converter().is_some();
        Scope {
            prefix,
            value,
            filter: Arc::new(move |object| all || self.matches(&kind, object)),
        }
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object as `kind` shows it is selected.
    pub fn matches(&self, kind: &Kind, object: &Object) -> bool {
        if !self.labels.matches(&object.labels) {
            return false;
        }
        if self.fields.is_empty() || kind.stored_as_served() {
            return self.fields.matches(&object.fields);
        }
        render::value(kind, object).is_ok_and(|value| self.fields.matches(&kind.selectable_fields(&value)))
    }
}

/// Upstream has words of its own for kinds that have no labels of their own, and for some that do.
fn unknown_label(kind: &Kind, field: &str) -> String {
    match kind.kind.as_str() {
        "Job" => format!("field label {field:?} not supported for Job"),
        _ if kind.has_own_field_labels() || kind.custom.is_some() => {
            format!("field label not supported: {field}")
        }
        _ => {
            format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
    }
}

/// A page of a list.
pub struct Page {
    pub objects: Vec<Arc<Object>>,
    pub revision: Revision,
    /// The token of the next page.
    pub next: Option<String>,
    /// How many are left, where that is known.
    pub remaining: Option<usize>,
}

pub async fn serve(call: &Call, style: Style) -> Result<Response> {
    let page = page(call).await?;
    let room = match is_made_in_pieces(&call.target.kind, style) {
        true => None,
        false => call.api.room.hold(&page).await,
    };
    Ok(held::within(room, answer(call, style, page)?))
}

/// Whether a list is made while it is sent.
fn is_made_in_pieces(kind: &Kind, style: Style) -> bool {
    let plain = kind.stored_as_served() && !style.accepted.beta;
    match (style.accepted.format, style.accepted.shape) {
        (Format::Json, Shape::Object) => true,
        (Format::Json, Shape::MetadataList) => plain,
        _ => false,
    }
}

pub fn answer(call: &Call, style: Style, page: Page) -> Result<Response> {
    let in_pieces = is_made_in_pieces(&call.target.kind, style);
    match (style.accepted.format, style.accepted.shape) {
        (_, Shape::Metadata) => Err(ApiError::is_list(&call.target.kind)),
        (Format::Json, Shape::Object) => whole(&call.target.kind, page),
        (Format::Json, Shape::MetadataList) if in_pieces && !page.objects.is_empty() => {
            Ok(metadata_list(page))
        }
        (Format::Protobuf, _) => binary(&call.target.kind, style.accepted, &page),
        (format, shape) => render::respond(
            format,
            StatusCode::OK,
            &shaped(&call.target.kind, style, shape, &page)?,
        ),
    }
}

/// Reads the page that the query asks for.
pub async fn page(call: &Call) -> Result<Page> {
    let query = &call.query;
    query.timeout()?;
    let selection = Selection::of(&call.target.kind, query)?;
    let limit = limit(call)?;
    let Snapshot {
        mut objects,
        revision,
    } = snapshot(call, &selection).await?;
    let kind = &call.target.kind;
    if !selection.is_everything() {
        objects = convert::objects(&call.api, kind, objects).await?;
        objects.retain(|object| selection.matches(kind, object));
    }
    let left = limit.map_or(0, |limit| objects.len().saturating_sub(limit));
    objects.truncate(limit.unwrap_or(usize::MAX));
    // Only what is shown is converted, if it can be chosen without.
    if selection.is_everything() {
        objects = convert::objects(&call.api, kind, objects).await?;
    }
    let next = match (left, objects.last()) {
        (1.., Some(last)) => Some(call.api.tokens.seal(&Position {
            revision,
            after: last.key.to_string(),
            prefix: call.target.prefix(),
        })?),
        _ => None,
    };
    let remaining = (left > 0 && selection.is_everything()).then_some(left);
    Ok(Page {
        objects,
        revision,
        next,
        remaining,
    })
}

/// How many are to be shown. Who takes whatever is in memory gets it whole, as from upstream's cache, which keeps no Events.
fn limit(call: &Call) -> Result<Option<usize>> {
    let asked = call.query.number("limit")?;
    let asked = asked.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let any = call.query.get("resourceVersion") == Some("0") && call.query.get("continue").is_none();
    Ok(asked.filter(|_| !(any && call.target.kind.is_cached_upstream())))
}

struct Snapshot {
    objects: Vec<Arc<Object>>,
    revision: Revision,
}

/// The objects of the collection at the revision that the query means.
async fn snapshot(call: &Call, selection: &Selection) -> Result<Snapshot> {
    let query = &call.query;
    let matching = query.version_match(false)?;
    let revision = query
        .revision()
        .map_err(|error| error.below("invalid resource version"))?;
    if let Some(token) = query.get("continue") {
        if revision.is_some_and(|r| r > 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        return go_on(call, token).await;
    }
    let scope = selection.clone().scope(&call.target);
    let now = |revision| {
        let (objects, changed) = call.api.cache.resource(&call.target.kind)?.within(&scope);
        let revision = changed.max(revision);
        Ok(Snapshot { objects, revision })
    };
    match (revision, matching) {
        (Some(0), _) => now(call.api.cache.revision()),
        (Some(revision), Some(VersionMatch::Exact)) => exact(call, revision, None).await,
        // A page of a version is of just that version, as it was before there were matches.
        (Some(revision), None) if query.number("limit")?.is_some_and(|limit| limit > 0) => {
            exact(call, revision, None).await
        }
        (Some(revision), _) => now(call.api.cache.at_least(revision).await?),
        (None, _) => now(call.api.cache.fresh().await?),
    }
}

async fn go_on(call: &Call, token: &str) -> Result<Snapshot> {
    let position = call.api.tokens.open_token(token, &call.target.prefix())?;
    let after = Some(position.after.as_str());
    match position.revision {
        0 => {
            let fresh = call.api.cache.fresh().await?;
            let resource = call.api.cache.resource(&call.target.kind)?;
            let (objects, changed) = resource.list(&call.target.prefix(), after);
            let revision = fresh.max(changed);
            Ok(Snapshot { objects, revision })
        }
        revision => exact(call, revision, after).await,
    }
}

/// What was there at `revision`, while it is retained: from memory when nothing changed since, else from the store's
/// history.
async fn exact(call: &Call, revision: Revision, after: Option<&str>) -> Result<Snapshot> {
    call.api.cache.at_least(revision).await?;
    let retained = call.api.store.retains(revision).await;
    retained.map_err(|error| gone(call, error, after))?;
    let resource = call.api.cache.resource(&call.target.kind)?;
    let (objects, changed) = resource.list(&call.target.prefix(), after);
    if changed <= revision {
        return Ok(Snapshot { objects, revision });
    }
    let range = Range {
        revision: Some(revision),
        after: after.map(str::to_owned),
        ..Range::prefix(call.target.prefix())
    };
    let found = call.api.store.range(range).await;
    let found = found.map_err(|error| gone(call, error, after))?;
    let read = found
        .items
        .iter()
        .map(|kv| Object::read(&resource.kind, kv).map(Arc::new));
    let objects = read
        .collect::<std::result::Result<_, _>>()
        .map_err(ApiError::internal)?;
    Ok(Snapshot { objects, revision })
}

/// Who goes on in a list that is no longer retained may go on in what is there now.
fn gone(call: &Call, error: ReadError, after: Option<&str>) -> ApiError {
    let (ReadError::Compacted { .. }, Some(after)) = (&error, after) else {
        return error.into();
    };
    let position = Position {
        revision: 0,
        after: after.to_owned(),
        prefix: call.target.prefix(),
    };
    match call.api.tokens.seal(&position) {
        Ok(token) => ApiError::expired_page(token),
        Err(error) => error,
    }
}

fn metadata(page: &Page) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), page.revision.to_string().into());
    if let Some(next) = &page.next {
        metadata.insert("continue".into(), next.clone().into());
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".into(), remaining.into());
    }
    Value::Object(metadata)
}

/// Tables, metadata lists and YAML: built as values.
fn shaped(kind: &Kind, style: Style, shape: Shape, page: &Page) -> Result<Value> {
    let values = page.objects.iter().map(|object| item(kind, shape, object));
    shaped_values(kind, style, shape, &metadata(page), values)
}

fn item(kind: &Kind, shape: Shape, object: &Object) -> Result<Value> {
    let mut value = render::value(kind, object)?;
    if shape == Shape::Object && !says_kind(kind) {
        without_kind(&mut value);
    }
    Ok(value)
}

/// A list of objects that are not stored.
pub fn values(kind: &Kind, style: Style, metadata: &Value, mut items: Vec<Value>) -> Result<Response> {
    if style.accepted.shape == Shape::Object {
        items.iter_mut().for_each(without_kind);
    }
    let items = items.into_iter().map(Ok);
    let list = shaped_values(kind, style, style.accepted.shape, metadata, items)?;
    render::respond(style.accepted.format, StatusCode::OK, &list)
}

/// Upstream starts lists of metadata, and rows of the Tables it makes of any kind, from nothing: empty ones are null.
fn shaped_values(
    kind: &Kind,
    style: Style,
    shape: Shape,
    metadata: &Value,
    values: impl Iterator<Item = Result<Value>>,
) -> Result<Value> {
    let list = match shape {
        Shape::Table => {
            let rows = values
                .map(|v| Ok(render::row(kind, style.include, &v?)))
                .collect::<Result<Vec<_>>>()?;
            let null = rows.is_empty() && kind.has_plain_rows();
            let mut table = render::table(kind, metadata, rows, true);
            if null {
                table["rows"] = Value::Null;
            }
            table
        }
        Shape::Metadata => return Err(ApiError::is_list(kind)),
        Shape::MetadataList => {
            let items = values
                .map(|v| Ok(render::metadata_only(&v?)))
                .collect::<Result<Vec<_>>>()?;
            let items = (!items.is_empty()).then_some(items);
            json!({"kind": METADATA_LIST, "apiVersion": META_V1, "metadata": metadata, "items": items})
        }
        Shape::Object => {
            let items = values.collect::<Result<Vec<_>>>()?;
            json!({"kind": kind.list_kind, "apiVersion": kind.api_version(), "metadata": metadata, "items": items})
        }
    };
    Ok(render::versioned(style.accepted, list))
}

/// A list of objects as stored bytes, joined on the way out.
fn whole(kind: &Arc<Kind>, page: Page) -> Result<Response> {
    let (list, version, kind) = (kind.list_kind.clone(), kind.api_version(), kind.clone());
    Ok(joined(&list, &version, page, move |out, object| {
        put_item(out, &kind, object)
    }))
}

/// A list in protobuf, object by object.
fn binary(kind: &Kind, accepted: Accepted, page: &Page) -> Result<Response> {
    let (list, version) = match accepted.shape {
        Shape::MetadataList => (METADATA_LIST, render::metadata_version(accepted).to_owned()),
        _ => (kind.list_kind.as_str(), kind.api_version()),
    };
    let unsound = || ApiError::internal(format!("an item of a {list} has no protobuf form"));
    let mut body = protobuf::List::new(&metadata(page)).ok_or_else(unsound)?;
    for object in &page.objects {
        let value = render::value(kind, object)?;
        let item = match accepted.shape {
            Shape::MetadataList => body.push_metadata(&value),
            _ => body.push(&value),
        };
        item.ok_or_else(unsound)?;
    }
    let body = body.finish(&version, list);
    Ok(render::protobuf_response(StatusCode::OK, body.into()))
}

/// As above, of metadata only.
fn metadata_list(page: Page) -> Response {
    joined(METADATA_LIST, META_V1, page, |out, object| {
        out.put(object::metadata_only(&object.line));
        Ok(())
    })
}

fn joined(
    list: &str,
    version: &str,
    page: Page,
    put: impl Fn(&mut BytesMut, &Object) -> Result<()> + Send + 'static,
) -> Response {
    let head = format!(
        "{{\"kind\":\"{list}\",\"apiVersion\":\"{version}\",\"metadata\":{},\"items\":[",
        metadata(&page)
    );
    let mut head = Some(head);
    let mut objects = page.objects.into_iter().enumerate();
    let pieces = std::iter::from_fn(move || {
        let head = head.take();
        let begun = head.is_some();
        let room = if objects.len() > 0 { PIECE + LAST_OBJECT } else { 0 };
        let mut piece = BytesMut::with_capacity(room);
        piece.put_slice(head.unwrap_or_default().as_bytes());
        while piece.len() < PIECE {
            let Some((i, object)) = objects.next() else { break };
            if i > 0 {
                piece.put_u8(b',');
            }
            if let Err(error) = put(&mut piece, &object) {
                return Some(Err(std::io::Error::other(error.message().to_owned())));
            }
        }
        (begun || !piece.is_empty()).then(|| Ok(piece.freeze()))
    });
    let end = std::iter::once(Ok(Bytes::from_static(b"]}\n")));
    render::json_response(StatusCode::OK, Body::from_stream(stream::iter(pieces.chain(end))))
}

fn put_item(out: &mut BytesMut, kind: &Kind, object: &Object) -> Result<()> {
    if says_kind(kind) {
        out.put(render::bytes(kind, object)?);
    } else if kind.stored_as_served() {
        out.put_u8(b'{');
        out.put(object.list_item());
    } else {
        let mut value = render::value(kind, object)?;
        without_kind(&mut value);
        out.put_slice(value.to_string().as_bytes());
    }
    Ok(())
}

/// Items of custom lists say what they are, those of built-in lists do not.
fn says_kind(kind: &Kind) -> bool {
    kind.custom.is_some()
}

fn without_kind(item: &mut Value) {
    if let Some(map) = item.as_object_mut() {
        map.remove("kind");
        map.remove("apiVersion");
    }
}
