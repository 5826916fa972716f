//! Handlers about messages between nodes. A receiver gets a stream of events, one JSON object a line; a message is its own until the stream ends.

use std::sync::Arc;
use std::time::Duration;

use atoll_bus::{
    BusError, Delivery, Filter, InRecord, InState, NewMessage, OutState, OutStatus, Pattern, SendRefusal, Subscription,
    TTL_MS_DEFAULT, Topic, Who,
};
use atoll_control::{
    AckRequest, ApiError, Base64, BusEvent, BusMessages, Kind, ReceiveRequest, ReceivedMessage, ReplyRequest,
    SendReport, SendRequest, SentMessage,
};
use atoll_ids::{MessageId, NodeId};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{Json, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Refused, Shared};
use crate::daemon::Parts;

pub(super) fn routes() -> Router<Arc<Parts>> {
    Router::new()
        .route("/bus/send", post(send))
        .route("/bus/ask", post(ask))
        .route("/bus/reply", post(reply))
        .route("/bus/receive", post(receive))
        .route("/bus/ack", post(ack))
        .route("/bus/messages", get(messages))
        .route("/bus/messages/{id}", get(fate))
}

fn input(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(Kind::Input, error.to_string())
}

fn told(error: &BusError) -> ApiError {
    let (kind, help) = match error {
        BusError::Refused(SendRefusal::Full { .. }) => (Kind::Unavailable, Some("`atoll net messages` says for whom")),
        BusError::Refused(_) => (Kind::Input, None),
        BusError::Unknown(_) => (Kind::NotFound, Some("`atoll net messages` lists what is remembered")),
        BusError::Ambiguous { .. } => (Kind::Input, Some("send to one of them with `atoll net send`")),
        BusError::NotHeld => (Kind::Conflict, None),
        BusError::Store(_) => (Kind::Broken, None),
        BusError::Unavailable => (Kind::Unavailable, Some("try again; the node's log says more")),
    };
    let told = ApiError::new(kind, error.to_string());
    match help {
        Some(help) => told.with_help(help),
        None => told,
    }
}

fn refused(error: &BusError) -> Refused {
    Refused(told(error))
}

fn time(milliseconds: u64) -> String {
    let at = i64::try_from(milliseconds).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    at.unwrap_or_default().to_string()
}

fn sent(status: OutStatus) -> SentMessage {
    let OutStatus { record, problem } = status;
    let (state, why) = match record.state {
        OutState::Waiting => ("waiting", problem),
        OutState::Delivered { .. } => ("delivered", None),
        OutState::Expired { .. } => ("expired", None),
        OutState::Refused { why, .. } => ("refused", Some(why.to_string())),
    };
    SentMessage {
        id: record.id,
        to: record.to,
        topic: record.topic.to_string(),
        answers: record.answers,
        bytes: record.bytes.into(),
        accepted: time(record.accepted),
        state: state.to_owned(),
        why,
    }
}

fn received(record: &InRecord) -> ReceivedMessage {
    let state = match record.state {
        InState::Unread => "unread",
        InState::Taken { .. } => "taken",
        InState::Expired { .. } => "expired",
    };
    ReceivedMessage {
        id: record.id,
        from: record.from,
        owner: record.owner,
        topic: record.topic.to_string(),
        answers: record.answers,
        bytes: record.bytes.into(),
        received: time(record.received),
        state: state.to_owned(),
    }
}

fn ttl(seconds: Option<u64>) -> Duration {
    seconds.map_or(Duration::from_millis(TTL_MS_DEFAULT), Duration::from_secs)
}

/// The message that is asked for, once it is known who the peers are.
async fn new_message(parts: &Parts, request: SendRequest) -> Result<NewMessage, ApiError> {
    let topic: Topic = request.topic.parse().map_err(input)?;
    let to = match request.to.strip_prefix("owner:") {
        Some(owner) => {
            let owner = owner.parse().map_err(input)?;
            // Whose nodes they are is known once they were asked.
            parts.peers.settled().await;
            let peers = parts.peers.status().into_iter();
            let nodes: Vec<NodeId> = peers.filter(|peer| peer.owner == Some(owner)).map(|peer| peer.node).collect();
            if nodes.is_empty() {
                let text = format!("no node of owner {owner} is known here");
                return Err(ApiError::new(Kind::NotFound, text).with_help("`atoll status` lists the peers"));
            }
            nodes
        }
        None => {
            let node = super::rules::find(parts, &request.to).await?;
            if node != parts.node && parts.link.peer(&node).is_none() {
                let text = format!("node {node} is not known here");
                return Err(ApiError::new(Kind::NotFound, text).with_help("`atoll join` its ticket"));
            }
            vec![node]
        }
    };
    Ok(NewMessage { to, topic, payload: Bytes::from(request.payload.0), ttl: ttl(request.ttl_seconds) })
}

async fn report(parts: &Parts, id: MessageId) -> Result<SendReport, BusError> {
    let fate = parts.bus.handle.fate(id).await?;
    Ok(SendReport { id, recipients: fate.into_iter().map(sent).collect() })
}

async fn send(State(parts): Shared, Json(request): Json<SendRequest>) -> Answer<SendReport> {
    let message = new_message(&parts, request).await?;
    let id = parts.bus.handle.send(message).await.map_err(|error| refused(&error))?;
    Ok(Json(report(&parts, id).await.map_err(|error| refused(&error))?))
}

async fn reply(State(parts): Shared, Json(request): Json<ReplyRequest>) -> Answer<SendReport> {
    let ReplyRequest { id, payload, ttl_seconds } = request;
    let replied = parts.bus.handle.reply(id, Bytes::from(payload.0), ttl(ttl_seconds)).await;
    let id = replied.map_err(|error| refused(&error))?;
    Ok(Json(report(&parts, id).await.map_err(|error| refused(&error))?))
}

async fn messages(State(parts): Shared) -> Answer<BusMessages> {
    let (outbox, inbox) = parts.bus.handle.messages().await.map_err(|error| refused(&error))?;
    let sent = outbox.into_iter().map(sent).collect();
    Ok(Json(BusMessages { sent, received: inbox.iter().map(received).collect() }))
}

/// How long to wait for an end.
#[derive(Deserialize)]
struct Within {
    /// In milliseconds; empty for as long as it takes.
    #[serde(default)]
    within_ms: String,
}

async fn fate(
    State(parts): Shared,
    Path(id): Path<MessageId>,
    Query(within): Query<Within>,
) -> Answer<Vec<SentMessage>> {
    let bus = &parts.bus.handle;
    let settled = bus.settled(id);
    let fate = match within.within_ms.as_str() {
        "" => settled.await,
        text => {
            let within = Duration::from_millis(text.parse().map_err(input)?);
            match tokio::time::timeout(within, settled).await {
                Ok(settled) => settled,
                Err(_) => bus.fate(id).await,
            }
        }
    };
    let fate = fate.map_err(|error| refused(&error))?;
    if fate.is_empty() {
        return Err(refused(&BusError::Unknown(id)));
    }
    Ok(Json(fate.into_iter().map(sent).collect()))
}

async fn ask(State(parts): Shared, Json(request): Json<SendRequest>) -> Result<Response, Refused> {
    let message = new_message(&parts, request).await?;
    let (id, answers) = parts.bus.handle.ask(message).await.map_err(|error| refused(&error))?;
    let report = report(&parts, id).await.map_err(|error| refused(&error))?;
    respond(parts, answers, true, Some(BusEvent::Sent { report }))
}

async fn receive(State(parts): Shared, Json(request): Json<ReceiveRequest>) -> Result<Response, Refused> {
    let topics: Pattern = request.topics.parse().map_err(input)?;
    let from = request.from.as_deref().map(str::parse::<Who>).transpose().map_err(input)?;
    let subscription = parts.bus.handle.subscribe(Filter { from, ..Filter::topics(topics) });
    respond(parts, subscription, request.follow, None)
}

/// Hands messages on as long as somebody listens.
fn respond(
    parts: Arc<Parts>,
    messages: Subscription,
    follow: bool,
    first: Option<BusEvent>,
) -> Result<Response, Refused> {
    // One message is under way at a time.
    let (events, lines) = mpsc::channel(1);
    tokio::spawn(async move {
        if let Some(first) = first
            && events.send(first).await.is_err()
        {
            return;
        }
        if let Err(error) = hand_on(&parts, messages, follow, &events).await {
            // Nobody listens any more: then nobody misses it.
            let _: Result<(), _> = events.send(BusEvent::Failed { error: told(&error) }).await;
        }
    });
    let lines = stream::unfold(lines, |mut lines| async move { Some((lines.recv().await?, lines)) });
    let body = Body::from_stream(lines.map(|event: BusEvent| {
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(line))
    }));
    let response = Response::builder().header("content-type", "application/x-ndjson").body(body);
    response.map_err(|error| ApiError::new(Kind::Broken, error.to_string()).into())
}

async fn hand_on(
    parts: &Parts,
    mut messages: Subscription,
    follow: bool,
    events: &mpsc::Sender<BusEvent>,
) -> Result<(), BusError> {
    loop {
        let delivery = if follow {
            tokio::select! {
                () = events.closed() => return Ok(()),
                delivery = messages.next() => delivery?,
            }
        } else {
            let Some(delivery) = messages.next_now().await? else { return Ok(()) };
            delivery
        };
        if !hand(parts, delivery, events).await {
            return Ok(());
        }
    }
}

/// Hands on one message. False if the receiver is gone without having acknowledged it: then it is for the next one.
async fn hand(parts: &Parts, delivery: Delivery, events: &mpsc::Sender<BusEvent>) -> bool {
    let mut handed = parts.bus.hand();
    let message = delivery.message();
    let event = BusEvent::Message {
        tag: handed.tag.clone(),
        message: received(&message.record),
        payload: Base64(message.payload.to_vec()),
    };
    if events.send(event).await.is_err() {
        return false;
    }
    tokio::select! {
        biased;
        reply = &mut handed.acknowledged => {
            let Ok(reply) = reply else { return false };
            // Whoever acknowledged may be gone; it counts all the same.
            let _: Result<(), _> = reply.send(delivery.ack().await);
            true
        }
        () = events.closed() => false,
    }
}

async fn ack(State(parts): Shared, Json(request): Json<AckRequest>) -> Answer<()> {
    let waiting = parts.bus.acknowledge(&request.tag).ok_or_else(|| refused(&BusError::NotHeld))?;
    let (reply, replied) = oneshot::channel();
    waiting.send(reply).map_err(|_| refused(&BusError::NotHeld))?;
    replied.await.map_err(|_| refused(&BusError::NotHeld))?.map_err(|error| refused(&error))?;
    Ok(Json(()))
}
