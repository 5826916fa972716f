//! hyper's way to a replica: a connector whose "host" is a session and a replica number, so that hyper's own pool keeps idle connections per replica.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use crate::BoxStream;
use crate::back::{ConnectError, Gateway};
use crate::table::ReplicaKey;

/// The top-level name of the made-up hosts; reserved for such use by RFC 2606.
const SUFFIX: &str = ".invalid";

/// The URI of a request at a replica: `http://s4-r2.invalid/path`.
pub(crate) fn uri(key: ReplicaKey, path_and_query: &str) -> Result<Uri, hyper::http::Error> {
    let authority = format!("s{}-r{}{SUFFIX}", key.0, key.1);
    Uri::builder().scheme("http").authority(authority).path_and_query(path_and_query).build()
}

fn key(uri: &Uri) -> Option<ReplicaKey> {
    let (session, replica) = uri.host()?.strip_suffix(SUFFIX)?.strip_prefix('s')?.split_once("-r")?;
    Some((session.parse().ok()?, replica.parse().ok()?))
}

#[derive(Clone)]
pub(crate) struct ReplicaConnector(pub(crate) Gateway);

impl Service<Uri> for ReplicaConnector {
    type Response = ReplicaIo;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<ReplicaIo, ConnectError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let gateway = self.0.clone();
        async move {
            let key = key(&uri).ok_or(ConnectError::Gone)?;
            Ok(ReplicaIo(TokioIo::new(gateway.connect(key).await?)))
        }
        .boxed()
    }
}

/// A data stream as hyper wants it.
pub(crate) struct ReplicaIo(TokioIo<BoxStream>);

impl Connection for ReplicaIo {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for ReplicaIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, sink: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, sink)
    }
}

impl Write for ReplicaIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_replica_is_found_again_in_its_uri() {
        assert_eq!(key(&uri((17, 4), "/a?b").unwrap()), Some((17, 4)));
        assert_eq!(key(&Uri::from_static("http://guestbook.example/")), None);
    }
}
