//! A small real driver for tests: it registers, stages by a tmpfs and publishes by a bind mount, as the specification has it.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::grpc::{framed, unframed};
use super::wire::{Fields, Message};
use crate::volumes::host::is_mount_point;

pub const NAME: &str = "small.csi.example";

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
        fs::create_dir_all(registration).unwrap();
        let socket = registration.join("small.sock");
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
            let rpc = Message::default().number(1, 1);
            Ok(done.message(1, Message::default().message(1, rpc)))
        }
        "NodeStageVolume" => {
            note(&fields.text(1));
            let at = PathBuf::from(fields.text(3));
            if is_mount_point(&at).unwrap() {
                return Ok(done);
            }
            mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), None::<&str>).map_err(|_| "13")?;
            let said: Vec<String> = fields
                .map(6)
                .unwrap()
                .into_iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            fs::write(at.join("context"), said.join("\n")).map_err(|_| "13")?;
            Ok(done)
        }
        "NodePublishVolume" => {
            note(&fields.text(1));
            let (staged, at) = (fields.text(3), PathBuf::from(fields.text(4)));
            fs::create_dir_all(&at).map_err(|_| "13")?;
            match staged.as_str() {
                "" => mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), None::<&str>),
                staged => mount(Some(staged), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>),
            }
            .map_err(|_| "13")?;
            let said: Vec<String> = fields
                .map(8)
                .unwrap()
                .into_iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            fs::write(at.join("published"), said.join("\n")).map_err(|_| "13")?;
            Ok(done)
        }
        "NodeUnpublishVolume" => {
            note(&fields.text(1));
            let at = PathBuf::from(fields.text(2));
            umount2(&at, MntFlags::empty()).map_err(|_| "5")?;
            fs::remove_dir(&at).map_err(|_| "13")?;
            Ok(done)
        }
        "NodeUnstageVolume" => {
            note(&fields.text(1));
            umount2(Path::new(&fields.text(2)), MntFlags::empty()).map_err(|_| "5")?;
            Ok(done)
        }
        _ => Err("12"),
    }
}
