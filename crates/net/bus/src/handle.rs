//! What other parts of the node do with the bus: send, subscribe, reply, ask, and look.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_ids::{MessageId, NodeId, OwnerId};
use atoll_wire::exchange::{self, ExchangeError};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::frames::{Answer, Question, Stop, TERMS};
use crate::machine::{Core, Counts, Filter, Hold, OutStatus, Outgoing, SendRefusal};
use crate::records::{InRecord, OutState};
use crate::store::{Store, StoreError};
use crate::topic::Topic;

/// Streams of all peers served at once: each may hold a batch in memory.
const SERVED_MAX: usize = 16;

/// Streams of one peer among them: a new one while the one before it is dying.
const SERVED_EACH_MAX: usize = 2;

/// Why the bus did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// The message is not accepted.
    #[error(transparent)]
    Refused(#[from] SendRefusal),
    /// There is no such message.
    #[error("no message {0} is remembered here")]
    Unknown(MessageId),
    /// Several nodes sent a message with that id.
    #[error("{} nodes sent a message {id}: a reply would have to guess", nodes.len())]
    Ambiguous {
        /// The id.
        id: MessageId,
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// The message was given back in between, so this acknowledgement does not count.
    #[error("the message is not held any more: it was given to somebody else, or will be")]
    NotHeld,
    /// What is kept cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk does not take it now, or the node is stopping. Nothing was promised; it may have happened all the same.
    #[error("the message bus cannot do that now: the node is stopping, or its disk does not take it")]
    Unavailable,
}

/// A message that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What is known about it.
    pub record: InRecord,
    /// What was sent.
    pub payload: Bytes,
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// To whom.
    pub to: Vec<NodeId>,
    /// What it is about.
    pub topic: Topic,
    /// The payload.
    pub payload: Bytes,
    /// How long it may wait.
    pub ttl: Duration,
}

pub(crate) type Look = Box<dyn FnOnce(&Core) + Send>;

/// What the driver is told.
pub(crate) enum Command {
    Send(Outgoing, oneshot::Sender<Result<(), SendRefusal>>),
    Heard(NodeId, Option<OwnerId>, Question, oneshot::Sender<Answer>),
    Want(u64, Filter, oneshot::Sender<Box<Held>>),
    Gone(u64),
    Asking(MessageId),
    AskingOver(MessageId),
    Ack(Hold, oneshot::Sender<bool>),
    Release(Hold),
    Exchanged(NodeId, u64, Result<Answer, String>),
    Look(Look),
}

/// A message in the hands of a consumer. Dropped, it is for the next one.
pub(crate) struct Held {
    pub(crate) record: InRecord,
    hold: Hold,
    /// `None` once the consumer is done with it.
    bus: Option<BusHandle>,
}

impl Held {
    pub(crate) fn new(record: InRecord, hold: Hold, bus: BusHandle) -> Self {
        Self { record, hold, bus: Some(bus) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(bus) = self.bus.take() {
            bus.tell(Command::Release(self.hold));
        }
    }
}

struct Shared {
    store: Store,
    commands: mpsc::Sender<Command>,
    waiters: AtomicU64,
    settled: watch::Sender<u64>,
    counts: watch::Sender<Counts>,
    serving: Semaphore,
    peers: Mutex<HashMap<NodeId, usize>>,
}

/// Access to the bus of a node. Cheap to clone.
#[derive(Clone)]
pub struct BusHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for BusHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BusHandle").finish_non_exhaustive()
    }
}

impl BusHandle {
    pub(crate) fn new(store: Store, commands: mpsc::Sender<Command>) -> Self {
        let shared = Shared {
            store,
            commands,
            waiters: AtomicU64::new(0),
            settled: watch::Sender::new(0),
            counts: watch::Sender::default(),
            serving: Semaphore::new(SERVED_MAX),
            peers: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Accepts a message: when this returns, it is on the disk and will be delivered, or its fate will say why not.
    ///
    /// # Errors
    /// [`BusError::Refused`], [`BusError::Unavailable`]; nothing is kept then.
    pub async fn send(&self, message: NewMessage) -> Result<MessageId, BusError> {
        self.accept(MessageId::from_bytes(random()), message, None).await
    }

    /// Sends a message and gives the answers to it as they come. As long as the subscription lives they are for it alone.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn ask(&self, message: NewMessage) -> Result<(MessageId, Subscription), BusError> {
        let id = MessageId::from_bytes(random());
        self.command(Command::Asking(id)).await?;
        let answers = Some(id);
        let filter = Filter { answers, ..Filter::topics(crate::topic::Pattern::everything()) };
        let subscription = Subscription { bus: self.clone(), filter, asking: answers };
        self.accept(id, message, None).await?;
        Ok((id, subscription))
    }

    /// Answers a message that arrived, also one that was taken already: to the node that sent it, on its topic.
    ///
    /// # Errors
    /// [`BusError::Unknown`], [`BusError::Ambiguous`], and as [`Self::send`].
    pub async fn reply(&self, id: MessageId, payload: Bytes, ttl: Duration) -> Result<MessageId, BusError> {
        let found = self.look(move |core| core.arrived(&id)).await?;
        let mut nodes: Vec<NodeId> = found.iter().map(|record| record.from).collect();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.len() > 1 {
            return Err(BusError::Ambiguous { id, nodes });
        }
        let topic = found.into_iter().next_back().ok_or(BusError::Unknown(id))?.topic;
        let message = NewMessage { to: nodes, topic, payload, ttl };
        self.accept(MessageId::from_bytes(random()), message, Some(id)).await
    }

    async fn accept(
        &self,
        id: MessageId,
        message: NewMessage,
        answers: Option<MessageId>,
    ) -> Result<MessageId, BusError> {
        let NewMessage { to, topic, payload, ttl } = message;
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let (reply, replied) = oneshot::channel();
        self.command(Command::Send(Outgoing { id, to, topic, answers, ttl, payload }, reply)).await?;
        replied.await.map_err(|_| BusError::Unavailable)??;
        Ok(id)
    }

    /// Messages that arrive, one after the other. Each is for one consumer only: of several that want the same, whoever has waited longest.
    #[must_use]
    pub fn subscribe(&self, filter: Filter) -> Subscription {
        Subscription { bus: self.clone(), filter, asking: None }
    }

    /// What became of a message, for each of its recipients; none if it is not remembered.
    ///
    /// # Errors
    /// [`BusError::Unavailable`]
    pub async fn fate(&self, id: MessageId) -> Result<Vec<OutStatus>, BusError> {
        self.look(move |core| core.fate(&id)).await
    }

    /// Waits until a message waits for nobody any more.
    ///
    /// # Errors
    /// [`BusError::Unavailable`]
    pub async fn settled(&self, id: MessageId) -> Result<Vec<OutStatus>, BusError> {
        let mut changes = self.shared.settled.subscribe();
        loop {
            let fate = self.fate(id).await?;
            if !fate.iter().any(|status| status.record.state == OutState::Waiting) {
                return Ok(fate);
            }
            changes.changed().await.map_err(|_| BusError::Unavailable)?;
        }
    }

    /// The outbox by position and the inbox by arrival: what waits, and the last of what does not any more.
    ///
    /// # Errors
    /// [`BusError::Unavailable`]
    pub async fn messages(&self) -> Result<(Vec<OutStatus>, Vec<InRecord>), BusError> {
        self.look(|core| (core.outbox().collect(), core.inbox().cloned().collect())).await
    }

    /// Figures.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Serves one stream of a peer, whose owner is given if it is known.
    ///
    /// # Errors
    /// [`ExchangeError`]: the stream broke, or what came is no question.
    pub async fn serve<S>(&self, peer: NodeId, owner: Option<OwnerId>, stream: S) -> Result<(), ExchangeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(_place) = self.place_for(peer) else {
            tracing::debug!(peer = %peer.short(), "more streams of messages than it may have at once");
            return Ok(());
        };
        let Ok(_permit) = self.shared.serving.acquire().await else { return Ok(()) };
        exchange::hear(stream, TERMS, |question| self.hear(peer, owner, question)).await
    }

    /// What a question of a peer is answered.
    pub(crate) async fn hear(&self, peer: NodeId, owner: Option<OwnerId>, question: Question) -> Answer {
        let (reply, replied) = oneshot::channel();
        let asked = self.command(Command::Heard(peer, owner, question, reply)).await;
        let answer = if asked.is_ok() { replied.await.ok() } else { None };
        answer.unwrap_or(Answer::Heard { taken: 0, stop: Some(Stop::Later) })
    }

    fn place_for(&self, peer: NodeId) -> Option<Place<'_>> {
        let mut peers = self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let served = peers.entry(peer).or_default();
        if *served == SERVED_EACH_MAX {
            return None;
        }
        *served += 1;
        Some(Place { bus: self, peer })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    pub(crate) fn has_settled(&self) {
        self.shared.settled.send_modify(|count| *count += 1);
    }

    pub(crate) fn set_counts(&self, counts: Counts) {
        self.shared.counts.send_replace(counts);
    }

    pub(crate) async fn command(&self, command: Command) -> Result<(), BusError> {
        self.shared.commands.send(command).await.map_err(|_| BusError::Unavailable)
    }

    /// Tells the driver something without waiting; for whoever is being dropped.
    fn tell(&self, command: Command) {
        let commands = &self.shared.commands;
        if let Err(mpsc::error::TrySendError::Full(command)) = commands.try_send(command)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let commands = commands.clone();
            runtime.spawn(async move {
                // A driver that is gone needs to know nothing.
                let _: Result<(), _> = commands.send(command).await;
            });
        }
    }

    async fn look<T>(&self, look: impl FnOnce(&Core) -> T + Send + 'static) -> Result<T, BusError>
    where
        T: Send + 'static,
    {
        let (reply, replied) = oneshot::channel();
        let look = move |core: &Core| {
            // Whoever asked may be gone.
            let _: Result<(), _> = reply.send(look(core));
        };
        self.command(Command::Look(Box::new(look))).await?;
        replied.await.map_err(|_| BusError::Unavailable)
    }
}

/// A stream of a peer that is being served.
struct Place<'a> {
    bus: &'a BusHandle,
    peer: NodeId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut peers = self.bus.shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(served) = peers.get_mut(&self.peer) {
            *served -= 1;
            if *served == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

/// Messages as they arrive.
#[derive(Debug)]
pub struct Subscription {
    bus: BusHandle,
    filter: Filter,
    asking: Option<MessageId>,
}

impl Subscription {
    /// Waits for the next message. It is this consumer's until it is acknowledged or dropped. May be cancelled without losing one.
    ///
    /// # Errors
    /// [`BusError::Store`] if it cannot be read, [`BusError::Unavailable`] once the node stops.
    pub async fn next(&mut self) -> Result<Delivery, BusError> {
        loop {
            let (mut waiter, replied) = self.want().await?;
            let answer = replied.await;
            waiter.number = None;
            // The driver forgets who waits when its disk has failed: then this one waits anew.
            let Ok(held) = answer else { continue };
            return self.deliver(held).await;
        }
    }

    /// The next message that is here already, if there is one.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_now(&mut self) -> Result<Option<Delivery>, BusError> {
        let (mut waiter, mut replied) = self.want().await?;
        // The driver takes commands in order: when this one is through, the one before it has been answered if it could be.
        self.bus.look(|_| ()).await?;
        let Ok(held) = replied.try_recv() else { return Ok(None) };
        waiter.number = None;
        drop(waiter);
        self.deliver(held).await.map(Some)
    }

    async fn want(&self) -> Result<(Waiter<'_>, oneshot::Receiver<Box<Held>>), BusError> {
        let number = self.bus.shared.waiters.fetch_add(1, Ordering::Relaxed);
        let waiter = Waiter { bus: &self.bus, number: Some(number) };
        let (reply, replied) = oneshot::channel();
        self.bus.command(Command::Want(number, self.filter.clone(), reply)).await?;
        Ok((waiter, replied))
    }

    async fn deliver(&self, held: Box<Held>) -> Result<Delivery, BusError> {
        let payload = self.bus.store().body(held.record.arrival).await?;
        Ok(Delivery { message: Message { record: held.record.clone(), payload }, held })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(id) = self.asking {
            self.bus.tell(Command::AskingOver(id));
        }
    }
}

/// A consumer that waits; dropped, it waits no more.
struct Waiter<'a> {
    bus: &'a BusHandle,
    /// `None` once it has been answered.
    number: Option<u64>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.bus.tell(Command::Gone(number));
        }
    }
}

/// A message that a consumer has. Dropped without [`ack`](Self::ack), it is given to the next one.
pub struct Delivery {
    message: Message,
    held: Box<Held>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("record", &self.message.record).finish_non_exhaustive()
    }
}

impl Delivery {
    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The consumer is done with it: when this returns, nobody gets it again, whatever happens.
    ///
    /// # Errors
    /// [`BusError::NotHeld`], [`BusError::Unavailable`]: it may be given out again.
    pub async fn ack(mut self) -> Result<(), BusError> {
        let Some(bus) = self.held.bus.clone() else { return Err(BusError::NotHeld) };
        let (reply, replied) = oneshot::channel();
        bus.command(Command::Ack(self.held.hold, reply)).await?;
        let held = replied.await.map_err(|_| BusError::Unavailable)?;
        self.held.bus = None;
        if held { Ok(()) } else { Err(BusError::NotHeld) }
    }
}

/// Bytes that nobody guesses.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}
