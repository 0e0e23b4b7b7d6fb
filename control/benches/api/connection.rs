//! One HTTP/1.1 connection to the server that a kubeconfig names: requests one after the other, bodies read whole.
use crate::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Read ahead of each connection: one read takes many watch events.
const BUFFER: usize = 64 << 10;

/// A server and how to authenticate to it.
#[derive(Clone)]
pub struct Target {
    address: String,
    name: ServerName<'static>,
    tls: Arc<rustls::ClientConfig>,
    headers: String,
}

impl Target {
    /// The server of a kubeconfig's first cluster, as its first user.
    pub fn of(path: &str) -> Result<Target> {
        let config: Value = serde_yaml::from_str(&std::fs::read_to_string(path)?)?;
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let server: http::Uri = cluster["server"]
            .as_str()
            .ok_or("the cluster has no server")?
            .parse()?;
        let host = server.host().ok_or("the server has no host")?.to_owned();
        let authorization = user["token"]
            .as_str()
            .map(|token| format!("authorization: Bearer {token}\r\n"));
        Ok(Target {
            address: format!("{host}:{}", server.port_u16().unwrap_or(443)),
            name: ServerName::try_from(host.clone())?,
            tls: Arc::new(tls(cluster, user)?),
            headers: format!("host: {host}\r\n{}", authorization.unwrap_or_default()),
        })
    }

    pub async fn connect(&self) -> Result<Connection> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let stream = TlsConnector::from(self.tls.clone())
            .connect(self.name.clone(), tcp)
            .await?;
        Ok(Connection {
            stream: BufReader::with_capacity(BUFFER, stream),
            headers: self.headers.clone(),
            answer: Vec::new(),
        })
    }
}

/// A PEM of the kubeconfig: inline in base64, or in a file.
fn pem(part: &Value, key: &str) -> Result<Option<Vec<u8>>> {
    if let Some(data) = part[format!("{key}-data").as_str()].as_str() {
        return Ok(Some(STANDARD.decode(data)?));
    }
    Ok(part[key].as_str().map(std::fs::read).transpose()?)
}

fn tls(cluster: &Value, user: &Value) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let authority =
        pem(cluster, "certificate-authority")?.ok_or("the cluster has no certificate authority")?;
    for certificate in CertificateDer::pem_slice_iter(&authority) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(
        match (pem(user, "client-certificate")?, pem(user, "client-key")?) {
            (Some(chain), Some(key)) => {
                let chain = CertificateDer::pem_slice_iter(&chain).collect::<std::result::Result<_, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&key)?)?
            }
            _ => builder.with_no_client_auth(),
        },
    )
}

pub struct Connection {
    stream: BufReader<TlsStream<TcpStream>>,
    headers: String,
    /// The last answer to a write.
    answer: Vec<u8>,
}

/// How long a body is.
#[derive(Clone, Copy)]
enum Length {
    Bytes(usize),
    Chunked,
}

/// What of an answer's head is looked at.
struct Head {
    code: u16,
    length: Length,
}

impl Head {
    /// Takes a line of the head in.
    fn read(&mut self, line: &str) -> Result<()> {
        if let Some(status) = line.strip_prefix("HTTP/1.1 ") {
            self.code = status.split(' ').next().unwrap_or_default().trim_end().parse()?;
        } else if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                self.length = Length::Bytes(value.trim().parse()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                self.length = Length::Chunked;
            }
        }
        Ok(())
    }
}

impl Connection {
    /// Sends a request and reads the answer whole.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        content: &str,
        body: &[u8],
    ) -> Result<(u16, Vec<u8>)> {
        self.request(method, path, content, body).await?;
        let (code, length) = self.head().await?;
        let mut answer = Vec::new();
        self.body(length, &mut answer).await?;
        Ok((code, answer))
    }

    pub async fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        self.get_into(path, &mut body).await?;
        Ok(body)
    }

    /// As above into memory that is there already.
    pub async fn get_into(&mut self, path: &str, body: &mut Vec<u8>) -> Result<()> {
        self.request("GET", path, "application/json", b"").await?;
        let (code, length) = self.head().await?;
        self.body(length, body).await?;
        match code {
            200 => Ok(()),
            code => Err(format!("GET {path}: {code} {}", String::from_utf8_lossy(body)).into()),
        }
    }

    /// Sends a JSON body; any other answer than success is an error.
    pub async fn write(&mut self, method: &str, path: &str, content: &str, body: &[u8]) -> Result<()> {
        self.request(method, path, content, body).await?;
        let (code, length) = self.head().await?;
        let mut answer = std::mem::take(&mut self.answer);
        answer.clear();
        self.body(length, &mut answer).await?;
        self.answer = answer;
        match code {
            200..300 => Ok(()),
            code => {
                let said = String::from_utf8_lossy(&self.answer);
                Err(format!("{method} {path}: {code} {said}").into())
            }
        }
    }

    /// Begins to watch; [`Connection::line`] reads what comes.
    pub async fn watch(&mut self, path: &str) -> Result<()> {
        self.request("GET", path, "application/json", b"").await?;
        match self.head().await? {
            (200, Length::Chunked) => Ok(()),
            (code, _) => Err(format!("a watch was answered {code}").into()),
        }
    }

    /// The next line of a watch: an event, or framing. Servers end every event by a line feed.
    pub async fn line(&mut self, line: &mut Vec<u8>) -> Result<usize> {
        line.clear();
        Ok(self.stream.read_until(b'\n', line).await?)
    }

    async fn request(&mut self, method: &str, path: &str, content: &str, body: &[u8]) -> Result<()> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{}accept: application/json\r\ncontent-type: {content}\r\ncontent-length: {}\r\n\r\n",
            self.headers,
            body.len()
        );
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).await?;
        Ok(self.stream.flush().await?)
    }

    async fn head(&mut self) -> Result<(u16, Length)> {
        let mut head = Head {
            code: 0,
            length: Length::Bytes(0),
        };
        // Nearly always it has come whole.
        let come = self.stream.fill_buf().await?;
        if let Some(end) = come.windows(4).position(|four| four == b"\r\n\r\n") {
            for line in std::str::from_utf8(&come[..end])?.split("\r\n") {
                head.read(line)?;
            }
            self.stream.consume(end + 4);
            return Ok((head.code, head.length));
        }
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line).await? == 0 {
                return Err("the server closed the connection".into());
            }
            match line.trim_end() {
                "" => return Ok((head.code, head.length)),
                line => head.read(line)?,
            }
        }
    }

    async fn body(&mut self, length: Length, body: &mut Vec<u8>) -> Result<()> {
        match length {
            Length::Bytes(count) => self.take(count, body).await,
            Length::Chunked => {
                while self.chunk(body).await? > 0 {}
                Ok(())
            }
        }
    }

    async fn chunk(&mut self, body: &mut Vec<u8>) -> Result<usize> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let size = usize::from_str_radix(line.trim(), 16)?;
        self.take(size, body).await?;
        line.clear();
        self.stream.read_line(&mut line).await?;
        Ok(size)
    }

    /// Appends exactly so many bytes.
    async fn take(&mut self, count: usize, body: &mut Vec<u8>) -> Result<()> {
        let mut part = (&mut self.stream).take(u64::try_from(count)?);
        match part.read_to_end(body).await? {
            read if read == count => Ok(()),
            _ => Err("the server closed the connection in a body".into()),
        }
    }
}
