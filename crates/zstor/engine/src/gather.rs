//! Fetches shards of stripes until they open: carries out a [`ReadPlan`] for each against the homes.
//!
//! *k* shards are asked for at once; one that is late, missing or forged is made up for by the next. Nothing leaves here that did not pass the
//! stripe's tag (or, for shards that are rebuilt, their own). Dropping the future drops what is still outstanding.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_codec::{OpenError, Opener, RebuildError, StripeRecord};
use atoll_ids::NodeId;
use atoll_shard::HomeError;
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::timeout;

use crate::error::{NodeFault, ReadError};
use crate::health::Operation;
use crate::inner::{Inner, now, reason};
use crate::plan::read::{Belief, Holder, ReadPlan, Standing};
use crate::record::StripeEntry;

/// A stripe and all that is needed to fetch it.
#[derive(Clone)]
pub(crate) struct Wanted {
    /// Its number in the object.
    pub(crate) stripe: u64,
    pub(crate) entry: StripeEntry,
    /// Per shard index, the node that has it.
    pub(crate) holders: Vec<NodeId>,
    pub(crate) opener: Arc<Opener>,
}

type Call = BoxFuture<'static, Result<Bytes, HomeError>>;

enum Event {
    Answer { index: usize, sent: Instant, result: Result<Bytes, HomeError> },
    Late { index: usize, sent: Instant, call: Call },
    OutOfPatience { index: usize, sent: Instant, call: Call },
}

struct Gather<'a> {
    inner: &'a Arc<Inner>,
    wanted: &'a Wanted,
    plan: ReadPlan,
    shards: Vec<(usize, Bytes)>,
    faults: Vec<NodeFault>,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
}

/// What is needed to open a stripe, apart from the gathering.
struct Opening {
    opener: Arc<Opener>,
    record: StripeRecord,
    shards: Vec<(usize, Bytes)>,
}

impl Opening {
    fn open(self) -> Result<Bytes, OpenError> {
        self.opener.open(&self.record, &self.shards)
    }
}

/// The plaintexts of some stripes, each with its own outcome. Their shards are fetched together and opened in one turn at the processor, because waking
/// threads for each costs as much as the work.
///
/// # Errors
/// For each stripe [`ReadError::TooFewShards`], [`ReadError::Tampered`], [`ReadError::Stopped`].
pub(crate) async fn read(inner: &Arc<Inner>, wanted: &[Wanted]) -> Vec<Result<Bytes, ReadError>> {
    let mut gathers: Vec<Gather<'_>> = wanted.iter().map(|wanted| Gather::start(inner, wanted, &[])).collect();
    let filled = join_all(gathers.iter_mut().map(Gather::fill)).await;
    let openings: Vec<Opening> =
        gathers.iter().zip(&filled).filter(|(_, filled)| filled.is_ok()).map(|(gather, _)| gather.opening()).collect();
    let open = move || openings.into_iter().map(Opening::open).collect::<Vec<_>>();
    let mut opened = match inner.compute(open).await {
        Ok(opened) => opened.into_iter(),
        Err(error) => return wanted.iter().map(|_| Err(ReadError::Stopped { why: error.to_string() })).collect(),
    };
    let mut plains = Vec::with_capacity(wanted.len());
    for (mut gather, filled) in gathers.into_iter().zip(filled) {
        plains.push(match filled {
            Ok(()) => match opened.next() {
                Some(opened) => gather.settle(opened).await,
                None => Err(gather.wanted.tampered()),
            },
            Err(error) => Err(error),
        });
    }
    plains
}

/// The plaintext of one stripe, whose shards `absent` are known to be nowhere and are not asked for.
///
/// # Errors
/// As [`read`] for each stripe.
pub(crate) async fn read_without(inner: &Arc<Inner>, wanted: &Wanted, absent: &[usize]) -> Result<Bytes, ReadError> {
    let mut gather = Gather::start(inner, wanted, absent);
    gather.fill().await?;
    let opening = gather.opening();
    let opened = inner.compute(move || opening.open()).await.map_err(stopped)?;
    gather.settle(opened).await
}

/// The shards `missing` of a stripe, made from others; none of `missing` is asked for.
///
/// # Errors
/// As [`read`].
pub(crate) async fn rebuild(inner: &Arc<Inner>, wanted: &Wanted, missing: Vec<usize>) -> Result<Vec<Bytes>, ReadError> {
    let mut gather = Gather::start(inner, wanted, &missing);
    loop {
        gather.fill().await?;
        let (opener, record, shards) = (wanted.opener.clone(), wanted.entry.record.clone(), gather.shards.clone());
        let wish = missing.clone();
        match inner.compute(move || opener.rebuild(&record, &shards, &wish)).await.map_err(stopped)? {
            Ok(rebuilt) => return Ok(rebuilt),
            Err(RebuildError::BadStripe { bad, .. }) if !bad.is_empty() => gather.discard(&bad),
            Err(_) => return Err(wanted.tampered()),
        }
    }
}

fn stopped(error: tokio::task::JoinError) -> ReadError {
    ReadError::Stopped { why: error.to_string() }
}

impl Wanted {
    fn tampered(&self) -> ReadError {
        ReadError::Tampered { what: format!("stripe {}", self.stripe) }
    }
}

impl<'a> Gather<'a> {
    fn start(inner: &'a Arc<Inner>, wanted: &'a Wanted, except: &[usize]) -> Self {
        inner.probe_suspects();
        let holders = {
            let tracker = inner.tracker();
            let holder = |(index, &node): (usize, &NodeId)| Holder {
                index,
                belief: if tracker.is_suspect(node) { Belief::Suspect } else { Belief::Up },
                latency: tracker.average(node, Operation::Get),
            };
            wanted.holders.iter().enumerate().filter(|(index, _)| !except.contains(index)).map(holder).collect()
        };
        let holders = mark_away(inner, wanted, holders);
        let plan = ReadPlan::new(wanted.opener.policy().data(), holders);
        let (shards, faults) = (Vec::new(), Vec::new());
        let mut gather = Self { inner, wanted, plan, shards, faults, events: FuturesUnordered::new() };
        for index in gather.plan.start() {
            gather.launch(index);
        }
        gather
    }

    /// Waits until *k* shards are there.
    async fn fill(&mut self) -> Result<(), ReadError> {
        loop {
            match self.plan.standing() {
                Standing::Ready => return Ok(()),
                Standing::Hopeless => return Err(self.shortage()),
                Standing::Pending => match self.events.next().await {
                    Some(event) => self.handle(event),
                    None => return Err(self.shortage()),
                },
            }
        }
    }

    fn opening(&self) -> Opening {
        let (opener, record) = (self.wanted.opener.clone(), self.wanted.entry.record.clone());
        Opening { opener, record, shards: self.shards.clone() }
    }

    /// The plaintext if the stripe opened; otherwise asks for further shards in place of forged ones until it does.
    async fn settle(&mut self, mut opened: Result<Bytes, OpenError>) -> Result<Bytes, ReadError> {
        loop {
            match opened {
                Ok(plain) if plain.len() == self.wanted.entry.record.plain_len() as usize => return Ok(plain),
                Err(OpenError::BadStripe { bad, .. }) if !bad.is_empty() => self.discard(&bad),
                Ok(_) | Err(_) => return Err(self.wanted.tampered()),
            }
            self.fill().await?;
            let opening = self.opening();
            opened = self.inner.compute(move || opening.open()).await.map_err(stopped)?;
        }
    }

    fn launch(&mut self, index: usize) {
        let node = self.wanted.holders[index];
        let Some(home) = self.inner.home(node) else {
            self.fail(index, "is no longer known".to_owned());
            return;
        };
        let id = self.wanted.opener.shard_id(self.wanted.entry.record.counter(), index);
        let hedge = self.inner.tracker().hedge_after(node, Operation::Get);
        let event = async move {
            let sent = now();
            let mut call: Call = async move { home.get(id).await }.boxed();
            match timeout(hedge, &mut call).await {
                Ok(result) => Event::Answer { index, sent, result },
                Err(_) => Event::Late { index, sent, call },
            }
        };
        self.events.push(event.boxed());
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Answer { index, sent, result } => {
                self.inner.note(self.wanted.holders[index], Operation::Get, sent, &result);
                match result {
                    Ok(shard) => {
                        self.shards.push((index, shard));
                        self.plan.good();
                    }
                    Err(error) => self.fail(index, reason(&error)),
                }
            }
            Event::Late { index, sent, call } => {
                self.inner.tracker().late(self.wanted.holders[index], Operation::Get, sent, now());
                self.events.push(wait_on(call, index, sent, self.inner.config.patience));
                if let Some(next) = self.plan.late() {
                    self.launch(next);
                }
            }
            Event::OutOfPatience { index, sent, call } => {
                let node = self.wanted.holders[index];
                if self.inner.is_worth_waiting_for(node) {
                    self.events.push(wait_on(call, index, sent, self.inner.config.patience));
                    return;
                }
                self.inner.tracker().no_answer(node, now());
                let waited = now().saturating_duration_since(sent);
                self.fail(index, format!("did not answer for {:.1} s", waited.as_secs_f64()));
            }
        }
    }

    fn fail(&mut self, index: usize, why: String) {
        self.faults.push(NodeFault { node: self.wanted.holders[index], why });
        if let Some(next) = self.plan.bad() {
            self.launch(next);
        }
    }

    /// Throws away shards that turned out to be forged.
    fn discard(&mut self, bad: &[usize]) {
        for &index in bad {
            self.shards.retain(|(at, _)| *at != index);
            self.faults
                .push(NodeFault { node: self.wanted.holders[index], why: "its shard is forged or rotten".to_owned() });
            if let Some(next) = self.plan.spoiled() {
                self.launch(next);
            }
        }
    }

    fn shortage(&self) -> ReadError {
        let mut missing = self.faults.clone();
        missing.sort_by_key(|fault| fault.node);
        let need = self.wanted.opener.policy().data();
        ReadError::TooFewShards { stripe: self.wanted.stripe, need, have: self.shards.len(), missing }
    }
}

/// Notes which holders are known to be away: nodes that are no longer known, or that could not be connected to a moment ago.
fn mark_away(inner: &Inner, wanted: &Wanted, mut holders: Vec<Holder>) -> Vec<Holder> {
    for holder in &mut holders {
        let away = |home: Arc<dyn atoll_shard::ShardHome>| home.health().back_off.is_some();
        if inner.home(wanted.holders[holder.index]).is_none_or(away) {
            holder.belief = Belief::Away;
        }
    }
    holders
}

fn wait_on(mut call: Call, index: usize, sent: Instant, patience: Duration) -> BoxFuture<'static, Event> {
    async move {
        match timeout(patience, &mut call).await {
            Ok(result) => Event::Answer { index, sent, result },
            Err(_) => Event::OutOfPatience { index, sent, call },
        }
    }
    .boxed()
}
