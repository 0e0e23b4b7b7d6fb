//! What a container says, live: a socket in its shim, where every client hears both outputs from the moment it is taken in,
//! which an empty frame tells it.
//!
//! Owns the frames: one byte for the stream, four for the length, the bytes. The Task API has nothing for it (containerd
//! itself stands between a shim and the log there); the socket's path is the annotation [`crate::annotations::ATTACH`].

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::stdio::LogStream;

/// Bytes of one frame's content.
pub const FRAME_LIMIT: usize = 64 << 10;
const HEAD: usize = 5;

/// A frame of bytes of a stream; longer ones must be cut at [`FRAME_LIMIT`].
pub fn frame(stream: LogStream, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + bytes.len());
    frame.push(match stream {
        LogStream::Stdout => 1,
        LogStream::Stderr => 2,
    });
    frame.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    frame.extend_from_slice(bytes);
    frame
}

/// Reads the next frame; `None` at the end, which is the container's.
pub async fn next(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(LogStream, Vec<u8>)>> {
    let mut head = [0; HEAD];
    match from.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let [stream, length @ ..] = head;
    let stream = match stream {
        1 => LogStream::Stdout,
        2 => LogStream::Stderr,
        other => return Err(io::Error::other(format!("a frame of unknown stream {other}"))),
    };
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_LIMIT {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(Some((stream, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_read_as_written() {
        let bytes = [frame(LogStream::Stdout, b"a"), frame(LogStream::Stderr, b"")].concat();
        let mut reader = bytes.as_slice();
        assert_eq!(
            next(&mut reader).await.unwrap(),
            Some((LogStream::Stdout, b"a".to_vec()))
        );
        assert_eq!(
            next(&mut reader).await.unwrap(),
            Some((LogStream::Stderr, Vec::new()))
        );
        assert_eq!(next(&mut reader).await.unwrap(), None);
        let too_long = [1, 0xff, 0, 0, 0];
        assert!(next(&mut too_long.as_slice()).await.is_err());
        assert!(next(&mut [9, 0, 0, 0, 0].as_slice()).await.is_err());
    }
}
