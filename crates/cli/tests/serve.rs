//! `eraser serve` from its start to a signal.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![cfg(unix)]

mod common;

use common::Dir;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Command;

/// It ended with no word on whether anything was being finished, and its start did not say how to end it.
#[test]
fn a_server_says_how_to_stop_it_and_that_it_stops() {
    let dir = Dir::with_model();
    let mut server = dir.start("serve --model model --port 0");
    let mut out = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.starts_with("serving model at http://127.0.0.1:"), "{line}");
    let mut errors = BufReader::new(server.stderr.take().unwrap());
    let mut how = String::new();
    errors.read_line(&mut how).unwrap();
    assert_eq!(how, "Ctrl-C stops the server: running answers get 30 s to end; Ctrl-C again stops at once\n");
    let signal = Command::new("kill").args(["-INT", &server.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let mut said = String::new();
    errors.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("stopping: running answers may end first"), "{said}");
    assert_eq!(server.wait().unwrap().code(), Some(0));
}
