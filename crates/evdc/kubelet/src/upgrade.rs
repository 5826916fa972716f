//! Which protocol a client changes its connection to, and the answer that agrees.

use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::status::{Body, Problem, full};

/// Which protocols within SPDY a client and a server can speak.
const SPDY_PROTOCOLS: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What SPDY is called when a connection is changed to it.
const SPDY: &str = "SPDY/3.1";

/// The version of WebSocket (RFC 6455).
const WEBSOCKET_VERSION: &str = "13";

/// What was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// WebSocket.
    WebSocket,
    /// SPDY/3.1.
    Spdy,
}

/// Agrees with a client on the first of its protocols that is one of these, and gives the answer that says so.
pub(crate) fn agree(
    headers: &HeaderMap,
    websocket: &'static [&'static str],
    spdy: &'static [&'static str],
) -> Result<(Spoken, Response<Body>), Problem> {
    let asked = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if asked.eq_ignore_ascii_case("websocket") {
        let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| Problem::bad_request("a WebSocket without a key"))?;
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != WEBSOCKET_VERSION) {
            return Err(Problem::bad_request(format!("the version of WebSocket must be {WEBSOCKET_VERSION}")));
        }
        let protocol = negotiate(headers, &SEC_WEBSOCKET_PROTOCOL, websocket)?;
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
        let accept = accept.map_err(|error| Problem::bad_request(error.to_string()))?;
        let mut answer = switch("websocket", SEC_WEBSOCKET_PROTOCOL, protocol);
        answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
        return Ok((Spoken::WebSocket, answer));
    }
    if asked.eq_ignore_ascii_case(SPDY) {
        let protocol = negotiate(headers, &SPDY_PROTOCOLS, spdy)?;
        return Ok((Spoken::Spdy, switch(SPDY, SPDY_PROTOCOLS, protocol)));
    }
    Err(Problem::bad_request(format!("unable to upgrade: the connection must be changed to a WebSocket or to {SPDY}")))
}

fn switch(to: &'static str, name: HeaderName, protocol: &'static str) -> Response<Body> {
    let mut answer = Response::new(full(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(to));
    answer.headers_mut().insert(name, HeaderValue::from_static(protocol));
    answer
}

fn negotiate(headers: &HeaderMap, name: &HeaderName, ours: &'static [&'static str]) -> Result<&'static str, Problem> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let theirs: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    let common = theirs.iter().find_map(|wanted| ours.iter().find(|it| *it == wanted));
    common.copied().ok_or_else(|| {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            theirs.join(" "),
            ours.join(" ")
        );
        Problem::new(StatusCode::FORBIDDEN, "Forbidden", message)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_first_common_protocol_is_taken() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let asked =
            [("upgrade", "websocket"), ("sec-websocket-version", "13"), key, ("sec-websocket-protocol", "v9, v5")];
        let (spoken, answer) = agree(&headers(&asked), &["v4", "v5"], &[]).unwrap();
        assert_eq!(spoken, Spoken::WebSocket);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "v5");
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "RFC 6455's example");
        let asked = [("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v5"), ("x-stream-protocol-version", "v4")];
        let (spoken, answer) = agree(&headers(&asked), &[], &["v4"]).unwrap();
        assert_eq!((spoken, answer.headers()["upgrade"].as_bytes()), (Spoken::Spdy, &b"SPDY/3.1"[..]));
        assert_eq!(answer.headers()["x-stream-protocol-version"], "v4");
    }

    #[test]
    fn what_is_not_spoken_is_refused() {
        for asked in [
            vec![],
            vec![("upgrade", "h2c")],
            vec![("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v1")],
            vec![("upgrade", "websocket")],
            vec![("upgrade", "websocket"), ("sec-websocket-key", "x"), ("sec-websocket-version", "8")],
        ] {
            assert!(agree(&headers(&asked), &["v5"], &["v4"]).is_err(), "{asked:?}");
        }
    }
}
