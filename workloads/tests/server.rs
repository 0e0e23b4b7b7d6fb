//! The native demo server's connections.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use workloads::site::answer;
use workloads::tcp::{Outside, serve_with};

fn server() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || serve_with(listener, |request| answer(request, &Outside)));
    TcpStream::connect(address).unwrap()
}

#[test]
fn a_connection_is_kept_until_its_client_wants_no_other_answer() {
    for last in [
        "GET /healthz HTTP/1.1\r\nhost: a\r\nConnection: close\r\n\r\n",
        "GET /healthz HTTP/1.0\r\n\r\n",
    ] {
        let mut stream = server();
        let first = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";
        stream.write_all(format!("{first}{last}").as_bytes()).unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        let answers: Vec<&str> = answers.split("HTTP/1.1 200 -").collect();
        assert!(
            answers[1].ends_with("connection: keep-alive\r\n\r\nbody"),
            "{answers:?}"
        );
        assert!(
            answers[2].ends_with("connection: close\r\n\r\nok\n"),
            "{answers:?}"
        );
    }
}
