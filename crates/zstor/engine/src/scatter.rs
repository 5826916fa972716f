//! Stores the shards of one stripe: carries out a [`WritePlan`] against the homes.
//!
//! All shards leave at once. The stripe is stored when every shard was acknowledged as durable by some node; a node that refuses, breaks off or
//! is silent for long is replaced as the plan says. Dropping the future stops it; what was sent may or may not be stored.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_codec::{Policy, SealedStripe};
use atoll_ids::NodeId;
use atoll_placement::DomainLevel;
use atoll_shard::{HomeError, PutOutcome};
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{timeout, timeout_at};

use crate::chart::Chart;
use crate::error::{NodeFault, PutError};
use crate::health::Operation;
use crate::inner::{Inner, now, reason};
use crate::plan::write::{Seat, Send, Standing, WritePlan};
use crate::record::Place;

/// How long the nodes that have not answered yet are waited for when the stripe cannot be stored anyway. Nothing is gained by it but a complete error, so
/// not longer than a person notices.
const TAKE_STOCK_MAX: Duration = Duration::from_secs(1);

/// How long a silent node is waited for beyond its delay when the stripe may be stored without it: whoever waits is a program in `fsync`.
const DISPENSABLE_PATIENCE: Duration = Duration::from_secs(1);

/// Where the shards ended up, apart from where their ranks say.
#[derive(Debug)]
pub(crate) struct Scattered {
    pub(crate) moved: Vec<Place>,
    pub(crate) strays: Vec<Place>,
    /// Per shard, the node that has it; all of them unless fewer were asked for.
    pub(crate) holders: Vec<Option<NodeId>>,
}

/// How many shards of a stripe must be durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quorum {
    pub(crate) policy: Policy,
    /// At least *k*; all of them where nodes for all answer.
    pub(crate) least: usize,
}

type Call = BoxFuture<'static, Result<PutOutcome, HomeError>>;

enum Event {
    Answer { send: Send, sent: Instant, result: Result<PutOutcome, HomeError> },
    Late { send: Send, sent: Instant, call: Call },
    OutOfPatience { send: Send, sent: Instant, call: Call },
}

struct Scatter<'a> {
    inner: &'a Arc<Inner>,
    sealed: &'a SealedStripe,
    plan: WritePlan,
    faults: Vec<NodeFault>,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
}

/// Stores the shards of a stripe with this seed on the nodes of `chart`.
///
/// # Errors
/// [`PutError::NotEnoughNodes`], when a shard has nowhere to go.
pub(crate) async fn scatter(
    inner: &Arc<Inner>,
    chart: &Chart,
    level: DomainLevel,
    seed: &[u8; 16],
    policy: Policy,
    sealed: &SealedStripe,
) -> Result<Scattered, PutError> {
    scatter_at_least(inner, chart, level, seed, Quorum { policy, least: policy.shards() }, sealed).await
}

/// The same, but content with fewer shards if the nodes for the others do not answer.
///
/// # Errors
/// [`PutError::NotEnoughNodes`], when fewer than asked for have a place.
pub(crate) async fn scatter_at_least(
    inner: &Arc<Inner>,
    chart: &Chart,
    level: DomainLevel,
    seed: &[u8; 16],
    quorum: Quorum,
    sealed: &SealedStripe,
) -> Result<Scattered, PutError> {
    let Quorum { policy, least } = quorum;
    inner.probe_suspects();
    let seats = {
        let tracker = inner.tracker();
        chart.seats(seed, level, |node| tracker.is_unwilling(node, now()))
    };
    let domains = groups(&seats, |_| true);
    let plan = WritePlan::with_least(policy.shards(), least, seats);
    let mut scatter = Scatter { inner, sealed, plan, faults: Vec::new(), events: FuturesUnordered::new() };
    if domains < least {
        return Err(scatter.shortage(quorum).await);
    }
    for send in scatter.plan.start() {
        scatter.launch(send);
    }
    loop {
        match scatter.plan.standing() {
            Standing::Complete => return Ok(scatter.finish()),
            Standing::Pending => match scatter.events.next().await {
                Some(event) => scatter.handle(event),
                None => break,
            },
            Standing::Hopeless => break,
        }
    }
    Err(scatter.shortage(quorum).await)
}

/// How many failure domains there are among some seats.
fn groups(seats: &[Seat], which: impl Fn(&Seat) -> bool) -> usize {
    seats.iter().filter(|seat| which(seat)).map(|seat| seat.group).collect::<HashSet<_>>().len()
}

impl Scatter<'_> {
    fn launch(&mut self, send: Send) {
        let node = self.plan.seat(send.seat).node;
        let Some(home) = self.inner.home(node) else {
            self.fail(send, "is no longer known".to_owned(), false);
            return;
        };
        let (id, data) = (self.sealed.ids[send.index], self.sealed.shards[send.index].clone());
        let hedge = self.inner.tracker().hedge_after(node, Operation::Put);
        let call: Call = async move { home.put(id, data).await }.boxed();
        self.events.push(until_late(call, send, now(), hedge));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Answer { send, sent, result } => {
                let node = self.node(send);
                self.inner.note(node, Operation::Put, sent, &result);
                match result {
                    Ok(_) => self.plan.stored(send.index, send.seat),
                    Err(error) => self.fail(send, reason(&error), error.is_no_answer()),
                }
            }
            Event::Late { send, sent, call } => {
                let node = self.node(send);
                let waited = now().saturating_duration_since(sent);
                if waited < self.inner.config.patience && self.inner.is_moving(node, waited / 2) {
                    // A slow line to a node that takes what comes: a spare would only get in the way of it.
                    self.events.push(until_late(call, send, sent, waited));
                    return;
                }
                self.inner.tracker().late(node, Operation::Put, sent, now());
                self.events.push(wait_on(call, send, sent, self.patience()));
                if let Some(spare) = self.plan.late(send.index) {
                    self.launch(spare);
                }
            }
            Event::OutOfPatience { send, sent, call } => {
                let node = self.node(send);
                let goes_on = if self.plan.wants_all() {
                    self.inner.is_worth_waiting_for(node)
                } else {
                    self.inner.is_moving(node, self.patience())
                };
                if goes_on {
                    self.events.push(wait_on(call, send, sent, self.patience()));
                    return;
                }
                self.inner.tracker().no_answer(node, now());
                let waited = now().saturating_duration_since(sent);
                self.fail(send, format!("did not answer for {:.1} s", waited.as_secs_f64()), true);
            }
        }
    }

    /// How long a silent node is waited for: not long where its shard can be made up for later.
    fn patience(&self) -> Duration {
        let all = self.inner.config.patience;
        if self.plan.wants_all() { all } else { all.min(DISPENSABLE_PATIENCE) }
    }

    fn node(&self, send: Send) -> NodeId {
        self.plan.seat(send.seat).node
    }

    fn fail(&mut self, send: Send, why: String, unclear: bool) {
        self.faults.push(NodeFault { node: self.node(send), why });
        if let Some(next) = self.plan.failed(send.index, send.seat, unclear) {
            self.launch(next);
        }
    }

    fn finish(&self) -> Scattered {
        let places = |list: Vec<(usize, NodeId)>| {
            let place =
                |(index, node)| Place { index: u8::try_from(index).expect("a stripe has at most 96 shards"), node };
            list.into_iter().map(place).collect()
        };
        Scattered {
            moved: places(self.plan.exceptions()),
            strays: places(self.plan.strays()),
            holders: self.plan.holders(),
        }
    }

    /// The error of a stripe that cannot be stored. It names every node that is missing and not only the first, so the others are asked.
    async fn shortage(&mut self, quorum: Quorum) -> PutError {
        let end = tokio::time::Instant::now() + TAKE_STOCK_MAX;
        while !self.plan.outstanding().is_empty() {
            match timeout_at(end, self.events.next()).await {
                Ok(Some(event)) => self.handle(event),
                Ok(None) | Err(_) => break,
            }
        }
        let mut missing = std::mem::take(&mut self.faults);
        let homes = self.inner.homes.list();
        let (up, down): (Vec<_>, Vec<_>) = homes.into_iter().partition(|home| home.up);
        let not_connected = down.into_iter().map(|home| (home.node, "is not connected".to_owned()));
        let unheard: Vec<NodeId> = up.into_iter().map(|home| home.node).collect();
        let unheard = unheard.into_iter().filter(|node| missing.iter().all(|fault| fault.node != *node));
        let end = tokio::time::Instant::now() + TAKE_STOCK_MAX;
        let questions: Vec<_> = unheard.map(|node| ask(self.inner, node, end)).collect();
        let silent = join_all(questions).await.into_iter().flatten();
        for (node, why) in not_connected.chain(silent) {
            if missing.iter().all(|fault| fault.node != node) {
                missing.push(NodeFault { node, why });
            }
        }
        missing.sort_by_key(|fault| fault.node);
        missing.dedup_by_key(|fault| fault.node);
        let able = |seat: &Seat| missing.iter().all(|fault| fault.node != seat.node);
        PutError::NotEnoughNodes {
            policy: quorum.policy,
            needed: quorum.least,
            answering: groups(self.plan.seats(), able),
            missing,
        }
    }
}

/// Why a node does not answer, if it does not.
async fn ask(inner: &Inner, node: NodeId, end: tokio::time::Instant) -> Option<(NodeId, String)> {
    let Some(home) = inner.home(node) else { return Some((node, "is no longer known".to_owned())) };
    match timeout_at(end, home.stat()).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some((node, reason(&error))),
        Err(_) => Some((node, "has not answered".to_owned())),
    }
}

fn until_late(mut call: Call, send: Send, sent: Instant, hedge: Duration) -> BoxFuture<'static, Event> {
    async move {
        match timeout(hedge, &mut call).await {
            Ok(result) => Event::Answer { send, sent, result },
            Err(_) => Event::Late { send, sent, call },
        }
    }
    .boxed()
}

fn wait_on(mut call: Call, send: Send, sent: Instant, patience: Duration) -> BoxFuture<'static, Event> {
    async move {
        match timeout(patience, &mut call).await {
            Ok(result) => Event::Answer { send, sent, result },
            Err(_) => Event::OutOfPatience { send, sent, call },
        }
    }
    .boxed()
}
