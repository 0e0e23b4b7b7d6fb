//! Answers that have no body, whatever their guests write: `HEAD`, 204, 304; and statuses that end no answer.

use crate::http::{by_http2, half_answer, on_port};
use crate::netns::Netns;
use crate::shim::{Shim, is_root, wat};
use serde_json::json;

/// A handler that answers with that status and writes 200 bytes, and traps when one is not taken.
fn talkative(status: u16) -> Vec<u8> {
    let code = "(if (i32.load8_u (i32.const 64)) (then unreachable))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $i) (i32.const 50)))
        (call $finish (local.get $body))";
    let text = include_str!("half_answer.wat").replace(";; THEN", code);
    wat(&text.replace("i32 (i32.const 200)", &format!("i32 (i32.const {status})")))
}

#[tokio::test]
async fn what_belongs_to_no_body_is_sent_to_nobody_and_its_guest_does_not_notice() {
    if !is_root() {
        return;
    }
    for (status, method) in [(200, "HEAD"), (204, "GET"), (304, "GET"), (404, "HEAD")] {
        let shim = Shim::new();
        let netns = Netns::new();
        shim.start("c", &talkative(status), on_port(8080, &netns)).await;
        for _ in 0..3 {
            let answer = by_http2(&netns, method, "/");
            assert_eq!(answer.unwrap(), (status, String::new()), "{method}");
            let request = format!("{method} / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
            let answer = netns.http(8080, &request);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with("\r\n\r\n"),
                "{answer}"
            );
        }
        assert_eq!(shim.log("c"), [""; 0], "{method}, {status}");
    }
}

#[tokio::test]
async fn a_status_that_ends_no_answer_is_the_guests_fault() {
    if !is_root() {
        return;
    }
    for status in [100, 101, 103] {
        let shim = Shim::new();
        let netns = Netns::new();
        shim.start("c", &talkative(status), on_port(8080, &netns)).await;
        let (code, said) = by_http2(&netns, "GET", "/").unwrap();
        assert!(code == 500 && said.contains(&status.to_string()), "{code} {said}");
        assert!(netns.get(8080, "/").starts_with("HTTP/1.1 500"));
    }
}

#[tokio::test]
async fn a_body_that_does_not_end_is_not_read_for_ever() {
    if !is_root() {
        return;
    }
    let shim = Shim::new();
    let netns = Netns::new();
    let code = "(br_if $again (i32.eqz (i32.load8_u (i32.const 64))))";
    shim.start("c", &half_answer(code), |config| {
        on_port(8080, &netns)(config);
        config["annotations"]["dev.amphipod.wasm/concurrency"] = json!("1");
    })
    .await;
    // The second is let in when the first has ended.
    for _ in 0..2 {
        assert_eq!(by_http2(&netns, "HEAD", "/").unwrap(), (200, String::new()));
    }
}
