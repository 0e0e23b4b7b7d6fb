//! A small real driver for tests: it registers, stages by a tmpfs and publishes by a bind mount, as the specification has it.
//! Its devices are nodes of [`DEVICE`]. What it is told of a volume is in the volume, where that is files.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::grpc::{framed, unframed};
use super::wire::{Fields, Message};

pub const NAME: &str = "small.csi.example";
/// The device behind every volume that is one: the first loop device, by its numbers.
pub const DEVICE: (u64, u64) = (7, 0);

/// No volume is larger.
pub const LARGEST: u64 = 8 << 30;

/// Codes of gRPC.
const NOT_FOUND: &str = "5";
const OUT_OF_RANGE: &str = "11";
const UNIMPLEMENTED: &str = "12";
const INTERNAL: &str = "13";

/// A running driver; it ends when dropped.
pub struct SmallDriver {
    /// Calls by method, with the volume they were about.
    pub calls: Arc<Mutex<Vec<String>>>,
    pub socket: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for SmallDriver {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.socket);
    }
}

impl SmallDriver {
    /// Listens in `registration`; registrar and driver are one socket.
    pub fn start(registration: &Path) -> Self {
        Self::at(&registration.join("small.sock"))
    }

    pub fn at(socket: &Path) -> Self {
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let socket = socket.to_owned();
        let listener = UnixListener::bind(&socket).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (endpoint, log) = (socket.clone(), calls.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (endpoint, log) = (endpoint.clone(), log.clone());
                let service = service_fn(move |request| serve(request, endpoint.clone(), log.clone()));
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { connection.await.ok() });
            }
        });
        SmallDriver { calls, socket, task }
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn serve(
    request: Request<Incoming>,
    endpoint: PathBuf,
    log: Arc<Mutex<Vec<String>>>,
) -> Result<Answer, Infallible> {
    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let message = unframed(&body).unwrap();
    let outcome = answer(&method, &Fields::read(&message).unwrap(), &endpoint, &log);
    let (status, message) = match outcome {
        Ok(message) => ("0", Some(message)),
        Err(code) => (code, None),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let bytes = message
        .map(|message| framed(&message.into_bytes()))
        .unwrap_or_default();
    let body = Full::new(bytes).with_trailers(async move { Some(Ok(trailers)) });
    Ok(Response::builder()
        .header("content-type", "application/grpc")
        .body(body.boxed())
        .unwrap())
}

fn answer(
    method: &str,
    fields: &Fields<'_>,
    endpoint: &Path,
    log: &Mutex<Vec<String>>,
) -> Result<Message, &'static str> {
    let done = Message::default();
    let note = |volume: &str| log.lock().unwrap().push(format!("{method} {volume}"));
    match method {
        "GetInfo" => Ok(done
            .text(1, "CSIPlugin")
            .text(2, NAME)
            .text(3, &endpoint.to_string_lossy())
            .texts(4, ["1.0.0"])),
        "NotifyRegistrationStatus" => {
            note(if fields.number(1) == 1 { "taken" } else { "refused" });
            Ok(done)
        }
        "NodeGetInfo" => {
            let topology = Message::default().map(1, &[("example/zone".to_owned(), "z1".to_owned())].into());
            Ok(done.text(1, "node-7").number(2, 5).message(3, topology))
        }
        "NodeGetCapabilities" => {
            // STAGE_UNSTAGE_VOLUME and EXPAND_VOLUME.
            let can = |what| Message::default().message(1, Message::default().number(1, what));
            Ok(done.message(1, can(1)).message(1, can(3)))
        }
        "NodeStageVolume" => {
            note(&fields.text(1));
            stage(fields, &PathBuf::from(fields.text(3))).map(|()| done)
        }
        "NodePublishVolume" => {
            note(&fields.text(1));
            let (staged, at) = (fields.text(3), PathBuf::from(fields.text(4)));
            match is_block(fields, 5) {
                true => publish_device(&staged, &at),
                false => publish(fields, &staged, &at),
            }
            .map(|()| done)
        }
        "NodeUnpublishVolume" => {
            note(&fields.text(1));
            let at = PathBuf::from(fields.text(2));
            umount2(&at, MntFlags::empty()).map_err(|_| NOT_FOUND)?;
            let removed = match at.is_dir() {
                true => fs::remove_dir(&at),
                false => fs::remove_file(&at),
            };
            removed.map(|()| done).map_err(|_| INTERNAL)
        }
        "NodeUnstageVolume" => {
            note(&fields.text(1));
            let at = PathBuf::from(fields.text(2));
            if fs::remove_file(at.join("device")).is_err() {
                umount2(&at, MntFlags::empty()).map_err(|_| NOT_FOUND)?;
            }
            Ok(done)
        }
        "NodeExpandVolume" => {
            note(&fields.text(1));
            let bytes = fields.messages(3).unwrap().pop().unwrap().number(1);
            let size = PathBuf::from(fields.text(2)).join("size");
            match bytes > LARGEST {
                true => Err(OUT_OF_RANGE),
                false => fs::write(size, bytes.to_string())
                    .map(|()| done)
                    .map_err(|_| INTERNAL),
            }
        }
        _ => Err(UNIMPLEMENTED),
    }
}

/// Whether the capability in `field` is a device.
fn is_block(fields: &Fields<'_>, field: u32) -> bool {
    let capability = fields.messages(field).unwrap().pop().unwrap();
    !capability.messages(1).unwrap().is_empty()
}

/// What a driver is told, a line each.
fn lines(told: BTreeMap<String, String>) -> String {
    let lines: Vec<String> = told
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    lines.join("\n")
}

fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    device(path) != device(path.parent().unwrap())
}

fn stage(fields: &Fields<'_>, at: &Path) -> Result<(), &'static str> {
    if is_block(fields, 4) {
        let device = at.join("device");
        let numbers = makedev(DEVICE.0, DEVICE.1);
        return match device.exists() {
            true => Ok(()),
            false => mknod(&device, SFlag::S_IFBLK, Mode::S_IRUSR, numbers).map_err(|_| INTERNAL),
        };
    }
    if is_mount_point(at) {
        return Ok(());
    }
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).map_err(|_| INTERNAL)?;
    let mut told = fields.map(6).unwrap();
    told.extend(fields.map(2).unwrap());
    fs::write(at.join("context"), lines(told)).map_err(|_| INTERNAL)
}

fn publish(fields: &Fields<'_>, staged: &str, at: &Path) -> Result<(), &'static str> {
    fs::create_dir_all(at).map_err(|_| INTERNAL)?;
    match staged {
        // What is published once more stays.
        _ if is_mount_point(at) => Ok(()),
        "" => mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>),
        staged => mount(Some(staged), at, None::<&str>, MsFlags::MS_BIND, None::<&str>),
    }
    .map_err(|_| INTERNAL)?;
    let mut told = fields.map(8).unwrap();
    told.extend(fields.map(2).unwrap());
    fs::write(at.join("secrets"), lines(fields.map(7).unwrap())).map_err(|_| INTERNAL)?;
    fs::write(at.join("published"), lines(told)).map_err(|_| INTERNAL)
}

fn publish_device(staged: &str, at: &Path) -> Result<(), &'static str> {
    fs::write(at, "").map_err(|_| INTERNAL)?;
    let device = Path::new(staged).join("device");
    let bound = mount(Some(&device), at, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    bound.map_err(|_| INTERNAL)
}
