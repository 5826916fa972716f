//! The client's calls about messages between nodes.

use std::time::Duration;

use atoll_ids::MessageId;
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::Incoming;
use serde::Serialize;

use super::{Client, ClientError, EVENT_BYTES_MAX, data, json_body, parse, uri};
use crate::bus::{
    AckRequest, BusEvent, BusMessages, ReceiveRequest, ReplyRequest, SendReport, SendRequest, SentMessage,
};

impl Client {
    /// Sends a message; when this returns, it is on the node's disk.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send_message(&self, request: &SendRequest) -> Result<SendReport, ClientError> {
        self.json(Method::POST, "/bus/send", &[], Some(request)).await
    }

    /// Answers a message that arrived.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reply_message(&self, request: &ReplyRequest) -> Result<SendReport, ClientError> {
        self.json(Method::POST, "/bus/reply", &[], Some(request)).await
    }

    /// What became of a message, once it waits for nobody any more or the time is over.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn message_fate(&self, id: MessageId, within: Option<Duration>) -> Result<Vec<SentMessage>, ClientError> {
        let within = within.map(|within| within.as_millis().to_string()).unwrap_or_default();
        self.json(Method::GET, &format!("/bus/messages/{id}"), &[("within_ms", &within)], None::<&()>).await
    }

    /// The outbox and the inbox.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn messages(&self) -> Result<BusMessages, ClientError> {
        self.json(Method::GET, "/bus/messages", &[], None::<&()>).await
    }

    /// Sends a message and gives the answers to it as they come.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ask_message(&self, request: &SendRequest) -> Result<BusEvents, ClientError> {
        self.bus_events("/bus/ask", request).await
    }

    /// Gives messages as they come, one at a time: the next once the one before it is acknowledged.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn receive_messages(&self, request: &ReceiveRequest) -> Result<BusEvents, ClientError> {
        self.bus_events("/bus/receive", request).await
    }

    /// The consumer is done with a message; nobody gets it again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ack_message(&self, tag: &str) -> Result<(), ClientError> {
        self.json(Method::POST, "/bus/ack", &[], Some(&AckRequest { tag: tag.to_owned() })).await
    }

    async fn bus_events<B: Serialize>(&self, path: &str, request: &B) -> Result<BusEvents, ClientError> {
        let response = self.send(Method::POST, &uri(path, &[]), json_body(request)?).await?;
        Ok(BusEvents { body: response.into_body(), buffer: BytesMut::new() })
    }
}

/// Messages as they come.
#[derive(Debug)]
pub struct BusEvents {
    body: Incoming,
    buffer: BytesMut,
}

impl BusEvents {
    /// The next event; `None` when nothing more will come. May be cancelled without losing one.
    ///
    /// # Errors
    /// [`ClientError::Api`] if it ended with a failure, [`ClientError::Gone`] if the node stopped.
    pub async fn next(&mut self) -> Result<Option<BusEvent>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return match parse(&line)? {
                    BusEvent::Failed { error } => Err(error.into()),
                    event => Ok(Some(event)),
                };
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                return Err(ClientError::Malformed("an event of more than 1 MiB".into()));
            }
            match self.body.frame().await {
                Some(frame) => self.buffer.extend_from_slice(&data(frame)?),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ClientError::Gone("an event is cut".into())),
            }
        }
    }
}
