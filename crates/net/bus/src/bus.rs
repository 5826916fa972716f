//! The driver: commands in, commits to the store, exchanges with other nodes.
//!
//! One task owns the core. It takes what has gathered meanwhile, steps through it, commits all writes at once (so that many share one sync of the disk), and
//! only then tells anybody. When a commit fails, nobody is told anything, and the core is loaded anew from what is on the disk.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atoll_ids::{MessageId, NodeId, OwnerId};
use atoll_kv::KeyValue;
use atoll_wire::exchange;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::frames::{Answer, Envelope, Payload, Question, TERMS};
use crate::handle::{BusHandle, Command, Held, Look, random};
use crate::limits::Limits;
use crate::machine::{Ask, Core, CoreConfig, Effect, Input, Now, Outputs, SendRefusal};
use crate::rule::{Rule, Rules};
use crate::store::{Store, StoreError, write_bytes};

/// Commands that wait for the driver; more wait in whoever gives them. Each holds at most a batch, and a peer has at most two under way.
const COMMANDS_MAX: usize = 64;

/// Bytes of writes after which a commit is made: the next step adds 4 MiB at most, and the store takes 8.
const COMMIT_BYTES: usize = 2 << 20;

/// How long the driver leaves a disk alone that has just failed.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The other nodes, as the bus needs them.
pub trait BusLink: Send + Sync + 'static {
    /// Opens a stream to a node for [`PROTOCOL`](crate::PROTOCOL), within a few seconds, or says why not.
    fn open(&self, node: NodeId) -> BoxFuture<'_, Result<Box<dyn Stream>, String>>;

    /// The nodes that are connected now.
    fn connected(&self) -> Vec<NodeId>;

    /// Counts up when they change.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// How the bus of a node is.
#[derive(Debug, Clone)]
pub struct BusConfig {
    /// The node.
    pub node: NodeId,
    /// Its owner.
    pub owner: OwnerId,
    /// Who may send to it.
    pub allow: Vec<Rule>,
    /// Limits on everything.
    pub limits: Limits,
}

/// The bus of a node, to be [run](Self::run).
pub struct Bus {
    config: BusConfig,
    seed: u64,
    began: Instant,
    core: Core,
    store: Store,
    handle: BusHandle,
    commands: mpsc::Receiver<Command>,
    waiting: Pending,
    tokens: u64,
}

/// Who waits for which answer of the core.
#[derive(Default)]
struct Pending {
    sends: HashMap<u64, oneshot::Sender<Result<(), SendRefusal>>>,
    heard: HashMap<u64, oneshot::Sender<Answer>>,
    wants: HashMap<u64, oneshot::Sender<Box<Held>>>,
    acks: HashMap<u64, oneshot::Sender<bool>>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("config", &self.config).finish_non_exhaustive()
    }
}

fn core_config(config: &BusConfig, seed: u64) -> CoreConfig {
    CoreConfig { limits: config.limits, rules: Rules::new(config.owner, config.allow.clone()), seed }
}

fn moment(began: Instant) -> Now {
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { steady: milliseconds(began.elapsed()), wall: milliseconds(wall) }
}

impl Bus {
    /// Opens the bus over what is kept in `kv`.
    ///
    /// # Errors
    /// [`StoreError`]: what is kept cannot be read.
    pub async fn open(kv: Arc<dyn KeyValue>, config: BusConfig) -> Result<Self, StoreError> {
        let store = Store::new(kv);
        let (seed, began) = (u64::from_le_bytes(random()), Instant::now());
        let core = Core::load(core_config(&config, seed), moment(began), store.load().await?);
        let (tell, commands) = mpsc::channel(COMMANDS_MAX);
        let handle = BusHandle::new(store.clone(), tell);
        Ok(Self { config, seed, began, core, store, handle, commands, waiting: Pending::default(), tokens: 0 })
    }

    /// Something to use it with.
    #[must_use]
    pub fn handle(&self) -> BusHandle {
        self.handle.clone()
    }

    /// Delivers and receives until told to stop.
    pub async fn run(mut self, link: Arc<dyn BusLink>, stop: CancellationToken) {
        let mut changes = link.changes();
        let mut connected = BTreeSet::new();
        let mut exchanges = JoinSet::new();
        // What was kept is tried at once.
        let mut gathered = vec![Input::Tick];
        let mut looks = Vec::new();
        loop {
            match self.take(gathered).await {
                Ok(effects) => self.carry_out(effects, &link, &mut exchanges),
                Err(error) => {
                    tracing::error!(%error, "messages cannot be kept; nothing is accepted until the disk takes them again");
                    if !self.recover(&stop).await {
                        return;
                    }
                }
            }
            self.handle.set_counts(self.core.counts());
            looks.drain(..).for_each(|look: Look| look(&self.core));
            while exchanges.try_join_next().is_some() {}
            gathered = tokio::select! {
                () = stop.cancelled() => return,
                command = self.commands.recv() => match command {
                    Some(command) => self.gather(command, &mut looks),
                    None => return,
                },
                () = sleep_until(self.began, self.core.next_tick()) => vec![Input::Tick],
                changed = changes.changed() => match changed {
                    Ok(()) => news(&mut connected, link.connected()),
                    Err(_) => return,
                },
            };
        }
    }

    /// This command and those that have gathered behind it.
    fn gather(&mut self, first: Command, looks: &mut Vec<Look>) -> Vec<Input> {
        let mut gathered = Vec::new();
        let mut next = Some(first);
        while let Some(command) = next.take() {
            gathered.extend(self.input(command, looks));
            if gathered.len() < COMMANDS_MAX {
                next = self.commands.try_recv().ok();
            }
        }
        gathered
    }

    fn input(&mut self, command: Command, looks: &mut Vec<Look>) -> Option<Input> {
        self.tokens += 1;
        let token = self.tokens;
        Some(match command {
            Command::Send(message, reply) => {
                self.waiting.sends.insert(token, reply);
                Input::Send { token, message }
            }
            Command::Heard(from, owner, question, reply) => {
                self.waiting.heard.insert(token, reply);
                Input::Heard { token, from, owner, question }
            }
            Command::Want(waiter, filter, reply) => {
                self.waiting.wants.insert(waiter, reply);
                Input::Want { waiter, filter }
            }
            Command::Gone(waiter) => {
                self.waiting.wants.remove(&waiter);
                Input::Gone(waiter)
            }
            Command::Ack(hold, reply) => {
                self.waiting.acks.insert(token, reply);
                Input::Ack { token, hold }
            }
            Command::Asking(id) => Input::Asking(id),
            Command::AskingOver(id) => Input::AskingOver(id),
            Command::Release(hold) => Input::Release(hold),
            Command::Exchanged(to, exchange, result) => Input::Exchanged { to, exchange, result },
            Command::Look(look) => {
                looks.push(look);
                return None;
            }
        })
    }

    /// Steps through inputs and commits. What is to be done now that it is on the disk.
    async fn take(&mut self, inputs: Vec<Input>) -> Result<Vec<Effect>, StoreError> {
        let (mut writes, mut effects) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for input in inputs {
            let Outputs { writes: more, effects: further } = self.core.step(moment(self.began), input);
            bytes += more.iter().map(write_bytes).sum::<usize>();
            writes.extend(more);
            effects.extend(further);
            if bytes >= COMMIT_BYTES {
                bytes = 0;
                self.store.commit(std::mem::take(&mut writes)).await?;
            }
        }
        self.store.commit(writes).await?;
        Ok(effects)
    }

    /// Loads the core anew once the disk works again. False if the node stops before that.
    async fn recover(&mut self, stop: &CancellationToken) -> bool {
        // Dropping what they wait on tells everybody that nothing was done.
        self.waiting = Pending::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(DISK_PAUSE) => {}
            }
            match self.store.load().await {
                Ok(stored) => {
                    let loaded = Core::load(core_config(&self.config, self.seed), moment(self.began), stored);
                    self.core = loaded.after(&self.core);
                    return true;
                }
                Err(error) => tracing::error!(%error, "messages cannot be read again yet"),
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>, link: &Arc<dyn BusLink>, exchanges: &mut JoinSet<()>) {
        let mut settled = false;
        for effect in effects {
            match effect {
                // Whoever waited for one of these may be gone: then nobody misses it.
                Effect::Accepted { token, result } => {
                    let _: Option<Result<_, _>> = self.waiting.sends.remove(&token).map(|reply| reply.send(result));
                }
                Effect::Answer { token, answer } => {
                    let _: Option<Result<_, _>> = self.waiting.heard.remove(&token).map(|reply| reply.send(answer));
                }
                Effect::Acked { token, held } => {
                    let _: Option<Result<_, _>> = self.waiting.acks.remove(&token).map(|reply| reply.send(held));
                }
                Effect::Hand { waiter, hold, record } => {
                    // Dropped on the way, it gives itself back.
                    let held = Box::new(Held::new(record, hold, self.handle.clone()));
                    let _: Option<Result<_, _>> = self.waiting.wants.remove(&waiter).map(|reply| reply.send(held));
                }
                Effect::Exchange { to, exchange, ask } => {
                    let speaker = Speaker { link: link.clone(), bus: self.handle.clone(), own: self.config.clone() };
                    exchanges.spawn(async move { speaker.speak(to, exchange, ask).await });
                }
                Effect::Settled(_) => settled = true,
            }
        }
        if settled {
            self.handle.has_settled();
        }
    }
}

/// Speaks to one node.
struct Speaker {
    link: Arc<dyn BusLink>,
    bus: BusHandle,
    own: BusConfig,
}

impl Speaker {
    async fn speak(self, to: NodeId, exchange: u64, ask: Ask) {
        let result = self.exchange(to, ask).await;
        if let Err(why) = &result {
            tracing::debug!(peer = %to.short(), why, "messages wait");
        }
        // A bus that is gone needs to know nothing.
        let _: Result<(), _> = self.bus.command(Command::Exchanged(to, exchange, result)).await;
    }

    async fn exchange(&self, to: NodeId, ask: Ask) -> Result<Answer, String> {
        let question = match ask {
            Ask::Hello => Question::Hello,
            Ask::Deliver(batch) => Question::Deliver(self.envelopes(batch).await.map_err(|error| error.to_string())?),
        };
        if to == self.own.node {
            return Ok(self.bus.hear(to, Some(self.own.owner), question).await);
        }
        let stream = self.link.open(to).await?;
        exchange::ask(stream, &question, TERMS).await.map_err(|error| error.to_string())
    }

    async fn envelopes(&self, batch: Vec<(crate::OutRecord, u64)>) -> Result<Vec<Envelope>, StoreError> {
        let mut envelopes = Vec::with_capacity(batch.len());
        let mut last: Option<(MessageId, Bytes)> = None;
        for (record, ttl) in batch {
            let payload = match last.take().filter(|(id, _)| *id == record.id) {
                Some((_, payload)) => payload,
                None => self.bus.store().sent(&record.id).await?,
            };
            last = Some((record.id, payload.clone()));
            let crate::OutRecord { position, id, topic, answers, .. } = record;
            envelopes.push(Envelope { position, id, topic, answers, ttl, payload: Payload(payload) });
        }
        Ok(envelopes)
    }
}

/// What is new in who is connected.
fn news(known: &mut BTreeSet<NodeId>, now: Vec<NodeId>) -> Vec<Input> {
    let now: BTreeSet<NodeId> = now.into_iter().collect();
    let new = now.difference(known).map(|node| Input::Reachable(*node)).collect();
    *known = now;
    new
}

async fn sleep_until(began: Instant, steady: Option<u64>) {
    match steady {
        Some(steady) => {
            let at = began + Duration::from_millis(steady);
            tokio::time::sleep_until(at.into()).await;
        }
        None => std::future::pending().await,
    }
}
