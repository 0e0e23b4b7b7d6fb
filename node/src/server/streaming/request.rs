//! What a request for streams asks for, by the names the kubelet API gives them. Pure.

use axum::http::StatusCode;

use super::forward_channels::PORTS;
use crate::server::routes::Refusal;

/// Which streams are wanted, and the command of an exec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    /// Never with a terminal: it has one output.
    pub stderr: bool,
    pub tty: bool,
}

/// Bytes of a command line; what `execve` takes of one argument.
const COMMAND_LIMIT: usize = 128 << 10;

impl StreamOptions {
    /// Reads a query: `command` (repeated), `input`, `output`, `error`, `tty`.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, Refusal> {
        let all = |name: &'static str| pairs.iter().filter(move |(key, _)| key == name);
        let on = |name| {
            all(name)
                .next()
                .is_some_and(|(_, value)| value == "1" || value == "true")
        };
        let command: Vec<String> = all("command").map(|(_, value)| value.clone()).collect();
        if command.iter().map(String::len).sum::<usize>() > COMMAND_LIMIT {
            let text = format!("the command is longer than {COMMAND_LIMIT} bytes");
            return Err((StatusCode::BAD_REQUEST, text));
        }
        let tty = on("tty");
        let options = StreamOptions {
            command,
            stdin: on("input"),
            stdout: on("output"),
            stderr: on("error") && !tty,
            tty,
        };
        if !(options.stdin || options.stdout || options.stderr) {
            let text = "you must specify at least 1 of stdin, stdout, stderr";
            return Err((StatusCode::BAD_REQUEST, text.to_owned()));
        }
        Ok(options)
    }
}

/// The ports of a port forwarding over plain channels: `port`, repeated or separated by commas.
pub fn ports(pairs: &[(String, String)]) -> Result<Vec<u16>, Refusal> {
    let bad = |text: String| (StatusCode::BAD_REQUEST, text);
    let given = pairs.iter().filter(|(key, _)| key == "port");
    let ports = given
        .flat_map(|(_, value)| value.split(','))
        .map(|text| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or(text));
    let ports: Vec<u16> = ports
        .collect::<Result<_, _>>()
        .map_err(|text| bad(format!("unable to parse {text:?} as a port")))?;
    match ports.len() {
        0 => Err(bad("query parameter \"port\" is required".to_owned())),
        1..=PORTS => Ok(ports),
        many => Err(bad(format!(
            "{many} ports are more than a request may forward ({PORTS})"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<StreamOptions, Refusal> {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap();
            (key.to_owned(), value.to_owned())
        };
        StreamOptions::parse(&query.split('&').map(pair).collect::<Vec<_>>())
    }

    #[test]
    fn queries() {
        let got = parse("command=ls&command=-l&output=1&error=1").unwrap();
        assert_eq!(got.command, ["ls", "-l"]);
        assert!(got.stdout && got.stderr && !got.stdin && !got.tty);
        let terminal = parse("command=sh&input=1&output=1&error=1&tty=1").unwrap();
        assert!(terminal.tty && terminal.stdin && !terminal.stderr);
        assert_eq!(parse("command=ls").unwrap_err().0, StatusCode::BAD_REQUEST);
        let long = format!("output=1&command={}", "x".repeat(COMMAND_LIMIT + 1));
        assert_eq!(parse(&long).unwrap_err().0, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn ports_are_listed_or_repeated() {
        let ask = |values: &[&str]| {
            let pairs: Vec<_> = values
                .iter()
                .map(|v| ("port".to_owned(), (*v).to_owned()))
                .collect();
            ports(&pairs).map_err(|(code, _)| code.as_u16())
        };
        assert_eq!(ask(&["80", "81,82"]), Ok(vec![80, 81, 82]));
        for bad in [&[] as &[&str], &["0"], &["70000"], &["x"], &["1,"]] {
            assert_eq!(ask(bad), Err(400), "{bad:?}");
        }
    }
}
