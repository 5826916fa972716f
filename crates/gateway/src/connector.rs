//! The node's side: keeps a session to a gateway and dials a data stream for each connection that it asks for.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use atoll_keys::Signed;
use atoll_wire::{decode, encode, read_frame, write_frame};
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::io::{AsyncWriteExt as _, ReadHalf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::BoxStream;
use crate::back::SILENCE_MAX;
use crate::claim::Claim;
use crate::table::Route;
use crate::wire::{FRAME_BYTES_MAX, FromGateway, Opening, Outcome, Token, Update};

/// A gateway that cannot be reached is tried again after this, then after twice as long, and so on.
const RETRY_FIRST: Duration = Duration::from_millis(200);

/// Never less often than this.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A replica on the same machine takes a connection within this, or not.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Connections to replicas at once, over one session. Each holds a socket and two buffers.
const CONNECTIONS_MAX: usize = 1024;

/// Messages of the gateway that wait here.
const INBOX_MESSAGES: usize = 64;

/// Why a stream to the gateway cannot be had.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub struct DialError(pub String);

/// Opens streams for [`PROTOCOL`](crate::PROTOCOL) to one gateway.
pub trait Dial: Send + Sync + 'static {
    /// A new stream.
    fn dial(&self) -> BoxFuture<'_, Result<BoxStream, DialError>>;
}

/// What this node's replicas answer at the gateway.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Served {
    /// The tenants' words for the names.
    pub claims: Vec<Signed<Claim>>,
    /// Which replica answers what.
    pub routes: Vec<Route>,
    /// Where the replicas listen on this node.
    pub targets: HashMap<u32, SocketAddr>,
}

/// How it stands with the gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectorStatus {
    /// Whether there is a session.
    pub connected: bool,
    /// Why there is none, or `None`.
    pub problem: Option<String>,
    /// Hosts that the gateway refused, and why.
    pub refused: Vec<(String, String)>,
}

/// Keeps a session to one gateway.
pub struct Connector {
    dial: Arc<dyn Dial>,
    served: watch::Receiver<Served>,
    status: watch::Sender<ConnectorStatus>,
    room: Arc<Semaphore>,
}

impl Connector {
    /// A connector that serves what `served` says.
    pub fn new(dial: Arc<dyn Dial>, served: watch::Receiver<Served>) -> Self {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { dial, served, status: watch::Sender::default(), room }
    }

    /// How it stands, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ConnectorStatus> {
        self.status.subscribe()
    }

    /// Keeps the session until told to stop. Nothing is dialled while there is nothing to serve.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = RETRY_FIRST;
        loop {
            let something = self.served.wait_for(|served| !served.routes.is_empty());
            tokio::select! {
                () = stop.cancelled() => return,
                found = something => if found.is_err() { return },
            }
            let began = Instant::now();
            let problem = tokio::select! {
                () = stop.cancelled() => return,
                problem = self.session() => problem,
            };
            tracing::debug!(problem, "no session with the gateway");
            self.status.send_replace(ConnectorStatus { problem: Some(problem), ..ConnectorStatus::default() });
            if began.elapsed() > RETRY_MAX {
                pause = RETRY_FIRST;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// One session, until it breaks: why.
    async fn session(&mut self) -> String {
        let stream = match self.dial.dial().await {
            Ok(stream) => stream,
            Err(error) => return error.to_string(),
        };
        let (incoming, mut outgoing) = tokio::io::split(stream);
        let (sender, mut inbox) = mpsc::channel(INBOX_MESSAGES);
        let reader = tokio::spawn(read(incoming, sender));
        let _reader = AbortOnDrop(reader);
        let opened = write_frame(&mut outgoing, &encode(&Opening::Session), FRAME_BYTES_MAX).await;
        if let Err(error) = opened {
            return error.to_string();
        }
        let mut alive = interval(SILENCE_MAX / 3);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut token = None;
        loop {
            let say = tokio::select! {
                changed = self.served.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return "there is nothing more to serve".into(),
                },
                _ = alive.tick() => true,
                message = inbox.recv() => {
                    let Some(message) = message else { return "the gateway closed the session".into() };
                    self.take(message, &mut token);
                    false
                }
            };
            if !say {
                continue;
            }
            let update = {
                let served = self.served.borrow_and_update();
                Update { claims: served.claims.clone(), routes: served.routes.clone() }
            };
            let said = async {
                write_frame(&mut outgoing, &encode(&update), FRAME_BYTES_MAX).await.map_err(|it| it.to_string())?;
                outgoing.flush().await.map_err(|it| it.to_string())
            };
            match timeout(SILENCE_MAX, said).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => return "the gateway takes nothing any more".into(),
            }
        }
    }

    fn take(&self, message: FromGateway, token: &mut Option<Token>) {
        match message {
            FromGateway::Welcome { token: given } => {
                *token = Some(given);
                self.status.send_replace(ConnectorStatus { connected: true, ..ConnectorStatus::default() });
            }
            FromGateway::Taken { refused } => {
                for (host, why) in &refused {
                    tracing::warn!(%host, why, "the gateway does not answer for a name");
                }
                self.status.send_modify(|status| status.refused = refused);
            }
            FromGateway::Connect { ticket, replica } => {
                let Some(token) = *token else { return };
                let target = self.served.borrow().targets.get(&replica).copied();
                let (dial, room) = (self.dial.clone(), self.room.clone());
                tokio::spawn(async move {
                    let Ok(_place) = room.try_acquire() else {
                        tracing::warn!(
                            "{CONNECTIONS_MAX} connections from the gateway are under way; one more was not taken"
                        );
                        return;
                    };
                    if let Err(error) = connect(&*dial, token, ticket, target).await {
                        tracing::debug!(ticket, error, "a connection for the gateway ended");
                    }
                });
            }
        }
    }
}

/// Ends a task with the session that it belongs to.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read(mut incoming: ReadHalf<BoxStream>, inbox: mpsc::Sender<FromGateway>) {
    while let Ok(Some(frame)) = read_frame(&mut incoming, FRAME_BYTES_MAX).await {
        let Ok(message) = decode(&frame) else { return };
        if inbox.send(message).await.is_err() {
            return;
        }
    }
}

async fn connect(dial: &dyn Dial, token: Token, ticket: u64, target: Option<SocketAddr>) -> Result<(), String> {
    let local = async {
        let target = target.ok_or_else(|| "the replica is gone".to_owned())?;
        let connected = timeout(CONNECT_WITHIN, TcpStream::connect(target)).await;
        let stream = connected.map_err(|_| "the replica does not take connections".to_owned())?;
        let stream = stream.map_err(|error| format!("the replica does not take connections: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok::<_, String>(stream)
    };
    let (local, stream) = tokio::join!(local, dial.dial());
    let mut stream = stream.map_err(|error| error.to_string())?;
    let mut say = async |frame: Vec<u8>| {
        write_frame(&mut stream, &frame, FRAME_BYTES_MAX).await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())
    };
    say(encode(&Opening::Data { token, ticket })).await?;
    match local {
        Ok(mut local) => {
            say(encode(&Outcome::Connected)).await?;
            let copied = tokio::io::copy_bidirectional(&mut stream, &mut local).await;
            copied.map(|_| ()).map_err(|error| error.to_string())
        }
        Err(why) => {
            say(encode(&Outcome::Failed(why.clone()))).await?;
            stream.shutdown().await.map_err(|error| error.to_string())?;
            Err(why)
        }
    }
}
