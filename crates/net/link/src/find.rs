//! Where nodes are that nobody here was told of: `atoll/find/1`.
//!
//! One task drives the core of [`atoll_find`] and owns it: what others say, what programs here look for, peers that come and go and the clock go in as commands, and it
//! sends what the core says. Messages go over connections that stand already, as datagrams, and otherwise over one of their own for a while ([`lines`]).
//! The records are the signed [`AddressRecord`]s that peers exchange.
//!
//! Strangers may ask and be asked: the core limits what each network may. Every queue between is bounded, and what does not fit is lost, which the core takes for silence.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_find::{Config, Contact, Counts, Find, Input, Key, Message, Miss, Output};
use atoll_ids::{NodeId, PlanetaryAddress};
use atoll_keys::Signed;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::debug;

use crate::acquaint::{Acquaintance, address};
use crate::address::{AddressRecord, is_dialable, open_record};
use crate::link::LinkHandle;
use crate::node::{Node, Own};

mod lines;

use lines::Lines;

/// The protocol's name.
pub(crate) const FIND: &str = "atoll/find/1";

/// What waits for the task: messages of all nodes together, 1 MiB at most. More than it takes in at once is a flood.
const COMMANDS_MAX: usize = 256;

/// Those who wait for the same node at once.
const WAITERS_MAX: usize = 32;

/// How often it is looked at what changes without a sign: addresses of peers, acquaintances that are not in use any more.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The shortest wait for a timer of the core, so that no rounding makes it spin.
const WAKE_LEAST: Duration = Duration::from_millis(2);

/// How long a lookup may take in all: the core gives up on its own, as it asks a limited number of nodes; this is for a core that is flooded.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);

/// For how long a node that was not found is not looked for again on account of packets. A node that is just starting is found a moment later.
const MISSED_FOR: Duration = Duration::from_secs(3);

/// For how long a record that led nowhere is not taken again.
const NOWHERE_FOR: Duration = Duration::from_secs(20);

/// Of those two, how many are remembered.
const REMEMBERED_MAX: usize = 1024;

/// Right after a join nobody can be asked yet. So packets wait for somebody, as long as programs do not give up.
const NOBODY_PAUSE: Duration = Duration::from_millis(50);
const NOBODY_TRIES: u32 = 40;

/// A node that has just started has not yet brought its record to anybody, and one that has just joined asks only whom it knows: so it is asked again, twice.
const NO_RECORD_PAUSE: Duration = Duration::from_millis(300);
const NO_RECORD_TRIES: u32 = 2;

/// The clock on the wall is believed when it is this much ahead: the machine slept, or somebody set it.
const CLOCK_AHEAD: Duration = Duration::from_secs(5);

type Record = Signed<AddressRecord>;

/// A node that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it says it is.
    pub record: AddressRecord,
    /// In how many steps; 0 when its record was here already.
    pub steps: u8,
    /// How long that took.
    pub took: Duration,
}

/// Why a node was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// This node does not find others.
    #[error("finding nodes is off here: set network.find = \"on\"")]
    Off,
    /// The link is shutting down.
    #[error("the link is shutting down")]
    Closed,
    /// It was not found a moment ago.
    #[error("it was not found a moment ago")]
    Lately,
    /// More acquaintances are in use than there may be.
    #[error("there are as many acquaintances as there may be")]
    Crowded,
    /// The lookup came to nothing.
    #[error(transparent)]
    Missed(#[from] Miss),
}

/// How finding fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FindCounts {
    /// Nodes that answered and are kept in mind.
    pub contacts: usize,
    /// Records kept for others.
    pub records: usize,
    /// Lookups in progress.
    pub lookups: usize,
    /// About how many nodes there are in all.
    pub estimate: u64,
    /// Whether the nearest nodes are known and have our record.
    pub joined: bool,
    /// Connections of its own for this at the moment.
    pub connections: usize,
    /// Acquaintances at the moment.
    pub acquaintances: usize,
    /// Nodes looked for since the start.
    pub looked_up: u64,
    /// Messages sent since the start.
    pub sent: u64,
    /// Their bytes, without what carries them.
    pub sent_bytes: u64,
    /// Connections made for them since the start.
    pub dialled: u64,
}

type Answer = Result<(Record, u8), Miss>;

/// What happened.
pub(crate) enum Command {
    Received { from: Contact, message: Message<Record> },
    Unreachable(NodeId),
    Find { key: Key, newer_than: u64, answer: oneshot::Sender<Answer> },
}

/// What was tried in vain lately, by key: until when, and for a record that led nowhere its sequence.
#[derive(Default)]
struct InVain(HashMap<Key, (Instant, u64)>);

impl InVain {
    fn note(&mut self, key: Key, sequence: u64, wait: Duration) {
        let now = Instant::now();
        self.0.retain(|_, (until, _)| *until > now);
        if self.0.len() < REMEMBERED_MAX {
            self.0.insert(key, (now + wait, sequence));
        }
    }

    fn find(&self, key: &Key) -> Option<u64> {
        self.0.get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, sequence)| *sequence)
    }
}

/// What the parts of a link share about finding.
pub(crate) struct Finding {
    commands: mpsc::Sender<Command>,
    /// Taken by the task.
    arriving: Mutex<Option<mpsc::Receiver<Command>>>,
    counts: Mutex<Option<(Counts, bool)>>,
    lines: Lines,
    looked_up: AtomicU64,
    missed: Mutex<InVain>,
    nowhere: Mutex<InVain>,
}

impl Default for Finding {
    fn default() -> Self {
        let (commands, arriving) = mpsc::channel(COMMANDS_MAX);
        Self {
            commands,
            arriving: Mutex::new(Some(arriving)),
            counts: Mutex::default(),
            lines: Lines::default(),
            looked_up: AtomicU64::new(0),
            missed: Mutex::default(),
            nowhere: Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Finding {
    /// A record of this sequence led nowhere; for a while only a newer one will do.
    pub(crate) fn led_nowhere(&self, node: &NodeId, sequence: u64) {
        lock(&self.nowhere).note(Key::of(node), sequence, NOWHERE_FOR);
    }

    /// Hands something to the task; it is lost if the task is behind.
    fn tell(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            debug!("finding is behind; a message is lost");
        }
    }
}

/// Time since 1970 that goes with the clock on the wall when that is ahead, and never back.
struct Clock {
    started: Instant,
    wall: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { started: Instant::now(), wall: wall() }
    }

    fn now(&mut self) -> Duration {
        let (now, wall) = (self.wall + self.started.elapsed(), wall());
        if wall > now + CLOCK_AHEAD {
            *self = Self::start();
            return wall;
        }
        now
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The task's own.
struct Driver {
    node: Arc<Node>,
    core: Find<Record>,
    clock: Clock,
    /// Peers that are connected.
    peers: BTreeMap<NodeId, Contact>,
    /// Peers that the core was told to begin from.
    begun: BTreeMap<NodeId, Contact>,
    waiting: HashMap<Key, Vec<oneshot::Sender<Answer>>>,
    said: Option<AddressRecord>,
}

impl Driver {
    fn new(node: Arc<Node>) -> Self {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).expect("the operating system has randomness");
        let config = Config { serves: true, seed: u64::from_le_bytes(seed), sparing: true };
        let core = Find::new(node.id, config);
        let (peers, begun, waiting) = (BTreeMap::new(), BTreeMap::new(), HashMap::new());
        Self { node, core, clock: Clock::start(), peers, begun, waiting, said: None }
    }

    fn step(&mut self, input: Input<Record>) {
        let now = self.clock.now();
        for output in self.core.step(now, input) {
            match output {
                Output::Send { to, message } => self.node.send_message(to, &message),
                Output::Sign { above } => self.node.publish(above),
                Output::Found { node, record, steps } => self.found(node, record, steps),
                Output::NotFound { key, why } => self.answer(key, &Err(why)),
            }
        }
        *lock(&self.node.finding.counts) = Some((self.core.counts(), self.core.is_joined()));
    }

    fn found(&mut self, node: NodeId, record: Record, steps: u8) {
        self.answer(Key::of(&node), &Ok((record.clone(), steps)));
        if let (true, Ok(opened)) = (self.node.book.knows(&node), open_record(&record)) {
            let node = self.node.clone();
            self.node.spawn(async move { node.book.overhear(record, opened).await });
        }
    }

    fn answer(&mut self, key: Key, answer: &Answer) {
        for waiting in self.waiting.remove(&key).into_iter().flatten() {
            let _gone: Result<(), Answer> = waiting.send(answer.clone());
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Received { from, message } => self.step(Input::Received { from, message }),
            Command::Unreachable(node) => self.step(Input::Unreachable(node)),
            Command::Find { key, newer_than, answer } => {
                let waiting = self.waiting.entry(key).or_default();
                waiting.retain(|waiting| !waiting.is_closed());
                if waiting.len() >= WAITERS_MAX {
                    let _gone: Result<(), Answer> = answer.send(Err(Miss::Busy));
                    return;
                }
                waiting.push(answer);
                self.step(Input::Find { key, newer_than });
            }
        }
    }

    /// Our own record, if it is another than the core has.
    fn own(&mut self, own: &Own) {
        let moved = self.said.as_ref().is_some_and(|said| !said.same_places(&own.record));
        self.said = Some(own.record.clone());
        self.step(Input::Own { record: own.signed.clone(), moved });
    }

    /// Who came and went since the last look.
    fn look_at_peers(&mut self) {
        let mut here = BTreeMap::new();
        for peer in self.node.book.peers() {
            let at = peer.record.quic.iter().copied().find(is_dialable);
            let direct = self.node.book.present_on(&peer.id).last().and_then(address);
            if let Some(at) = direct.or(at).filter(|_| peer.connected.is_some()) {
                here.insert(peer.id, Contact { node: peer.id, at });
            } else if let Some(at) = at {
                let contact = Contact { node: peer.id, at };
                if self.begun.insert(peer.id, contact) != Some(contact) {
                    self.step(Input::Begin(contact));
                }
            }
        }
        self.begun.retain(|node, _| self.node.book.knows(node));
        let gone: Vec<Contact> =
            self.peers.values().filter(|peer| here.get(&peer.node) != Some(peer)).copied().collect();
        for contact in gone {
            self.peers.remove(&contact.node);
            self.step(Input::Peer { contact, connected: false });
        }
        for contact in here.into_values() {
            if self.peers.insert(contact.node, contact) != Some(contact) {
                self.step(Input::Peer { contact, connected: true });
            }
        }
    }
}

impl Node {
    /// Drives the core until the link stops.
    pub(crate) async fn find_nodes(self: Arc<Self>) {
        let Some(mut arriving) = lock(&self.finding.arriving).take() else { return };
        let (mut changes, mut own) = (self.book.changes(), self.own.subscribe());
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut driver = Driver::new(self.clone());
        let first = own.borrow_and_update().clone();
        driver.own(&first);
        loop {
            let now = driver.clock.now();
            let pause = driver.core.wake(now).saturating_sub(now).clamp(WAKE_LEAST, LOOK_EVERY);
            tokio::select! {
                () = self.stop.cancelled() => return,
                Some(command) = arriving.recv() => driver.take(command),
                Ok(()) = changes.changed() => driver.look_at_peers(),
                Ok(()) = own.changed() => {
                    let own = own.borrow_and_update().clone();
                    driver.own(&own);
                }
                () = sleep_until(Instant::now() + pause) => driver.step(Input::Tick),
                _ = looks.tick() => {
                    driver.look_at_peers();
                    self.forget_acquaintances();
                }
            }
        }
    }

    async fn look_up(&self, key: Key, newer_than: u64) -> Result<(AddressRecord, u8), FindError> {
        if !self.config.find {
            return Err(FindError::Off);
        }
        self.finding.looked_up.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let command = Command::Find { key, newer_than, answer };
        self.finding.commands.send(command).await.map_err(|_| FindError::Closed)?;
        let stopped = self.stop.run_until_cancelled(timeout(LOOKUP_TIMEOUT, answered)).await;
        let (record, steps) = match stopped {
            None | Some(Ok(Err(_))) => return Err(FindError::Closed),
            Some(Err(_)) => return Err(FindError::Missed(Miss::NobodyAnswered)),
            Some(Ok(Ok(answer))) => answer?,
        };
        // The core verified it.
        let record = open_record(&record).map_err(|_| FindError::Missed(Miss::NoRecord))?;
        Ok((record, steps))
    }

    /// Looks for the node at an address, for as long as a program that sends there waits.
    async fn look_up_soon(&self, key: Key) -> Result<AddressRecord, FindError> {
        let newer_than = lock(&self.finding.nowhere).find(&key).unwrap_or(0);
        let (mut nobody, mut no_record) = (0, 0);
        loop {
            let outcome = self.look_up(key, newer_than).await;
            let (tries, max, pause) = match &outcome {
                Err(FindError::Missed(Miss::NobodyAnswered)) if !self.book.nodes().is_empty() => {
                    (&mut nobody, NOBODY_TRIES, NOBODY_PAUSE)
                }
                Err(FindError::Missed(Miss::NoRecord)) => (&mut no_record, NO_RECORD_TRIES, NO_RECORD_PAUSE),
                _ => return outcome.map(|(record, _)| record),
            };
            if *tries == max {
                return outcome.map(|(record, _)| record);
            }
            *tries += 1;
            sleep(pause).await;
        }
    }
}

impl LinkHandle {
    /// Looks for the node that has a planetary address, peer or not, anew.
    ///
    /// # Errors
    ///
    /// [`FindError`].
    pub async fn find(&self, address: PlanetaryAddress) -> Result<Found, FindError> {
        let began = Instant::now();
        if address == self.node.id.planetary_address() {
            return Ok(Found { record: self.addresses(), steps: 0, took: Duration::ZERO });
        }
        let (record, steps) = self.node.look_up(Key::at(address), 0).await?;
        Ok(Found { record, steps, took: began.elapsed() })
    }

    /// Finds the node that has a planetary address, so that packets can be sent to it: as a peer, or else as an [`Acquaintance`].
    ///
    /// # Errors
    ///
    /// [`FindError`].
    pub async fn get_acquainted(&self, address: PlanetaryAddress) -> Result<NodeId, FindError> {
        let (node, key) = (&self.node, Key::at(address));
        if let Some(known) = node.acquaintances.at(address) {
            return Ok(known);
        }
        if lock(&node.finding.missed).find(&key).is_some() {
            return Err(FindError::Lately);
        }
        match node.look_up_soon(key).await {
            Ok(record) if node.book.knows(&record.node) => Ok(record.node),
            Ok(record) => {
                let id = record.node;
                if node.get_to_know(record) { Ok(id) } else { Err(FindError::Crowded) }
            }
            Err(error) => {
                if error == FindError::Missed(Miss::NoRecord) {
                    lock(&node.finding.missed).note(key, 0, MISSED_FOR);
                }
                Err(error)
            }
        }
    }

    /// The nodes that are no peers and with which packets are exchanged, by id.
    pub fn acquaintances(&self) -> Vec<Acquaintance> {
        self.node.acquaintances.all()
    }

    /// How finding fares; `None` where it is off.
    pub fn find_counts(&self) -> Option<FindCounts> {
        let finding = &self.node.finding;
        let (Counts { contacts, records, lookups, estimate }, joined) = (*lock(&finding.counts))?;
        let (connections, acquaintances) = (finding.lines.count(), self.node.acquaintances.count());
        let (sent, sent_bytes, dialled) = finding.lines.carried();
        let counts = FindCounts {
            contacts,
            records,
            lookups,
            estimate,
            joined,
            connections,
            acquaintances,
            looked_up: finding.looked_up.load(Ordering::Relaxed),
            sent,
            sent_bytes,
            dialled,
        };
        Some(counts)
    }
}
