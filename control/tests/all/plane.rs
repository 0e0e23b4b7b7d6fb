//! A control plane on a directory and ports of its own.
use amphipod_control::api::serve::Patience;
use amphipod_control::{ControlOptions, ControlPlane};
use http::{Method, Request, StatusCode};
use kube::Client;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Plane {
    pub control: ControlPlane,
    pub dir: tempfile::TempDir,
}

impl Plane {
    pub async fn start() -> Plane {
        Plane::with(Patience::default()).await
    }

    /// One whose clients may take only so long.
    pub async fn with(patience: Patience) -> Plane {
        let dir = tempfile::tempdir().unwrap();
        let control = start_in(dir.path(), patience, None).await;
        Plane { control, dir }
    }

    /// One with an audit policy.
    pub async fn with_audit(policy: &str) -> Plane {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.yaml");
        std::fs::write(&file, policy).unwrap();
        let control = start_in(dir.path(), Patience::default(), Some(file)).await;
        Plane { control, dir }
    }

    pub fn client(&self) -> Client {
        self.control.client()
    }

    /// Stops it and starts another one on the same data.
    pub async fn restart(self) -> Plane {
        self.control.shutdown(Duration::from_secs(10)).await;
        Plane::again(self.dir).await
    }

    /// Starts one on the data of another.
    pub async fn again(dir: tempfile::TempDir) -> Plane {
        let control = start_in(dir.path(), Patience::default(), None).await;
        Plane { control, dir }
    }

    pub async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.send(method, path, "application/json", body).await
    }

    /// Waits for a line of the audit log.
    pub async fn audited(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let path = self.dir.path().join("control/audit/audit.log");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let mut lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            if let Some(line) = lines.find(|line| wanted(line)) {
                return line;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "not in the audit log: {text}"
            );
            // The log is written behind the answers, by lines; there is nobody to wait for.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send(Method::GET, path, "application/json", String::new())
            .await
    }

    /// A request as it is, and the answer whatever its code.
    pub async fn send(&self, method: Method, path: &str, content: &str, body: String) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content);
        let response = self
            .client()
            .send(request.body(body.into_bytes().into()).unwrap())
            .await
            .unwrap();
        let code = response.status();
        let body = http_body_util::BodyExt::collect(response.into_body())
            .await
            .unwrap()
            .to_bytes();
        (
            code,
            serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()),
        )
    }
}

async fn start_in(dir: &Path, patience: Patience, audit_policy: Option<PathBuf>) -> ControlPlane {
    let options = ControlOptions {
        data_dir: dir.join("control"),
        listen: ([127, 0, 0, 1], 0).into(),
        pod_cidr: "10.45.0.0/16".parse().unwrap(),
        node_cidr_mask_size: None,
        service_cidr: "10.97.0.0/24".parse().unwrap(),
        node_ports: 30000..=30010,
        registry: None,
        audit_policy,
        extra_sans: vec![],
        pod_security: Default::default(),
        patience,
    };
    ControlPlane::start(options).await.unwrap()
}

pub fn config_map(name: &str, data: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": data}})
}
