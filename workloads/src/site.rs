//! The pages of the demo server: a pure function from request to response, plus the files and environment that the
//! container was given. Refuses to know how bytes reach it.

use std::fmt::Write;

/// A request as the pages need it: the path with its query, headers in order, the whole body.
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A response: status code, content type, body.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Response {
    fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }
}

/// Fetches a URL and returns status and body; how is the transport's business.
pub trait Fetch {
    /// `url` is `http://HOST:PORT/PATH`.
    fn fetch(&self, url: &str) -> Result<(u16, Vec<u8>), String>;
}

/// Answers one request.
///
/// | path | answer |
/// |---|---|
/// | `/` | who answers: runtime, Pod, method, headers |
/// | `/healthz` | `ok` |
/// | `/echo` | the request's body |
/// | `/env` | the environment, sorted |
/// | `/files/PATH` | the file `/PATH` as the container sees it |
/// | `/fetch?url=URL` | what URL answers, asked from inside the Pod |
pub fn answer(request: &Request, outside: &dyn Fetch) -> Response {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    match path {
        "/" => Response::text(200, info(request)),
        "/healthz" => Response::text(200, "ok\n"),
        "/echo" => Response::text(200, request.body.clone()),
        "/env" => Response::text(200, environment()),
        "/fetch" => fetch(query, outside),
        _ => match path.strip_prefix("/files/") {
            Some(file) => read_file(file),
            None => Response::text(404, format!("nothing at {path}\n")),
        },
    }
}

fn info(request: &Request) -> String {
    let runtime = if cfg!(target_family = "wasm") {
        "wasm"
    } else {
        "native"
    };
    let pod = std::env::var("POD_NAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_default();
    let mut text = format!(
        "hello from {runtime}\npod: {pod}\nrequest: {} {}\n",
        request.method, request.target
    );
    for (name, value) in &request.headers {
        let _ = writeln!(text, "{name}: {value}"); // writing to a String cannot fail
    }
    text
}

/// `NAME=value` lines, sorted.
pub fn environment() -> String {
    let mut lines: Vec<String> = std::env::vars()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    lines.sort();
    lines.concat()
}

fn fetch(query: &str, outside: &dyn Fetch) -> Response {
    let Some(url) = query.split('&').find_map(|pair| pair.strip_prefix("url=")) else {
        return Response::text(400, "give ?url=http://HOST:PORT/PATH\n");
    };
    match outside.fetch(url) {
        Ok((status, body)) => Response::text(status, body),
        Err(why) => Response::text(502, format!("{url}: {why}\n")),
    }
}

fn read_file(path: &str) -> Response {
    match std::fs::read(format!("/{path}")) {
        Ok(body) => Response::text(200, body),
        Err(why) => Response::text(404, format!("/{path}: {why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;
    impl Fetch for Nowhere {
        fn fetch(&self, _: &str) -> Result<(u16, Vec<u8>), String> {
            Err("no network here".into())
        }
    }

    fn get(target: &str) -> Response {
        answer(
            &Request {
                method: "GET".into(),
                target: target.into(),
                headers: vec![],
                body: b"body".to_vec(),
            },
            &Nowhere,
        )
    }

    #[test]
    fn pages_answer() {
        let cases: &[(&str, u16, &str)] = &[
            ("/", 200, "hello from native"),
            ("/healthz", 200, "ok"),
            ("/echo", 200, "body"),
            ("/files/nowhere/at/all", 404, "/nowhere/at/all"),
            ("/fetch", 400, "give ?url="),
            ("/fetch?url=http://127.0.0.1:1/", 502, "no network here"),
            ("/other", 404, "nothing at /other"),
        ];
        for (target, status, words) in cases {
            let response = get(target);
            let body = String::from_utf8_lossy(&response.body).into_owned();
            assert_eq!(response.status, *status, "{target}: {body}");
            assert!(body.contains(words), "{target}: {body}");
        }
    }
}
