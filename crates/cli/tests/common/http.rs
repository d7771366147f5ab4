//! Requests and replies of the servers that tests start.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

/// A request as it came.
pub struct Received {
    /// The first line: method, route, version.
    pub first: String,
    pub authorization: Option<String>,
    pub body: Vec<u8>,
}

/// One request on a connection; None when the connection is over.
pub fn receive(stream: &TcpStream) -> Option<Received> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut authorization, mut first) = (0, None, String::new());
    reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Received { first, authorization, body })
}

/// Replies with this status, these headers (each with its line end), this body; None when the connection is over.
pub fn reply(mut stream: &TcpStream, (status, headers, text): (u16, &str, String)) -> Option<()> {
    let reply = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(reply.as_bytes()).ok()
}
