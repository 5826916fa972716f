//! Which node gets which shard of a stripe, as answers come in.
//!
//! A pure core: it says whom to send to, the driver in `write.rs` sends. Seats are the candidates of the stripe's map in the order of its ranking;
//! shard *i* belongs on seat *i*. A seat that is suspect, fails or is late is replaced by the next free one.
//!
//! Invariants (property-tested): a node is tried for at most one shard of a stripe; no two shards end up in one failure domain; a failed seat is never
//! tried again; the plan ends: it is complete, hopeless, or has a try outstanding.

use atoll_ids::NodeId;

/// A candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    /// The node.
    pub(crate) node: NodeId,
    /// Its failure domain: equal numbers may fail together.
    pub(crate) group: usize,
    /// Believed not to answer: used only when nothing else is left.
    pub(crate) suspect: bool,
}

/// An order to the driver: send shard `index` to seat `seat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Send {
    pub(crate) index: usize,
    pub(crate) seat: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Free,
    Tried(usize),
    Failed,
}

/// Where the plan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Answers are outstanding.
    Pending,
    /// Every shard is stored.
    Complete,
    /// A shard has nowhere left to go.
    Hopeless,
}

/// The state of one stripe's upload.
#[derive(Debug)]
pub(crate) struct WritePlan {
    seats: Vec<Seat>,
    uses: Vec<Use>,
    /// Per shard: the seat that acknowledged it.
    homes: Vec<Option<usize>>,
    /// Per shard: seats it was sent to and that have neither acknowledged nor failed.
    tries: Vec<Vec<usize>>,
    /// Seats that may have stored a shard that is recorded elsewhere: they acknowledged second, or broke off without a clear answer.
    doubtful: Vec<(usize, usize)>,
    /// With how many stored shards the plan is complete when the others have nowhere to go.
    least: usize,
}

impl WritePlan {
    /// A plan for all of `shards` shards over `seats` in the order of their ranking.
    #[cfg(test)]
    pub(crate) fn new(shards: usize, seats: Vec<Seat>) -> Self {
        Self::with_least(shards, shards, seats)
    }

    /// A plan that is complete with `least` shards stored, once the others have nowhere left to go.
    pub(crate) fn with_least(shards: usize, least: usize, seats: Vec<Seat>) -> Self {
        let uses = vec![Use::Free; seats.len()];
        Self { seats, uses, homes: vec![None; shards], tries: vec![Vec::new(); shards], doubtful: Vec::new(), least }
    }

    /// The first orders. Shards whose own seat is good go there; then the others find a spare.
    pub(crate) fn start(&mut self) -> Vec<Send> {
        let shards = self.homes.len();
        let own: Vec<usize> = (0..shards).filter(|&i| self.seats.get(i).is_some_and(|s| !s.suspect)).collect();
        let mut sends: Vec<Send> = own.iter().map(|&index| self.send(index, index)).collect();
        for index in (0..shards).filter(|index| !own.contains(index)) {
            sends.extend(self.replace(index));
        }
        sends
    }

    /// Seat `seat` acknowledged shard `index`.
    pub(crate) fn stored(&mut self, index: usize, seat: usize) {
        self.tries[index].retain(|&tried| tried != seat);
        if self.homes[index].is_none() {
            self.homes[index] = Some(seat);
        } else {
            self.doubtful.push((index, seat));
        }
    }

    /// Seat `seat` will not store shard `index`; with `unclear` it may have done so without being able to say it.
    pub(crate) fn failed(&mut self, index: usize, seat: usize, unclear: bool) -> Option<Send> {
        self.uses[seat] = Use::Failed;
        if unclear {
            self.doubtful.push((index, seat));
        }
        self.tries[index].retain(|&tried| tried != seat);
        let waiting = self.homes[index].is_some() || !self.tries[index].is_empty();
        if waiting { None } else { self.replace(index) }
    }

    /// Shard `index` was not acknowledged in the time that was given to its seat. A suspect will do if nobody else is left: it may only have been
    /// slow once, and the seat that is late now may hang.
    pub(crate) fn late(&mut self, index: usize) -> Option<Send> {
        if self.homes[index].is_some() { None } else { self.replace(index) }
    }

    pub(crate) fn standing(&self) -> Standing {
        let stored = self.homes.iter().filter(|home| home.is_some()).count();
        let open = (0..self.homes.len()).filter(|&i| self.homes[i].is_none() && !self.tries[i].is_empty()).count();
        if stored + open < self.least {
            Standing::Hopeless
        } else if open > 0 {
            Standing::Pending
        } else {
            Standing::Complete
        }
    }

    /// Whether every shard must be stored.
    pub(crate) fn wants_all(&self) -> bool {
        self.least >= self.homes.len()
    }

    /// Per shard, the node that acknowledged it.
    pub(crate) fn holders(&self) -> Vec<Option<NodeId>> {
        self.homes.iter().map(|home| home.map(|seat| self.seats[seat].node)).collect()
    }

    /// The shards that are not on their own seat: index and the node that has it.
    pub(crate) fn exceptions(&self) -> Vec<(usize, NodeId)> {
        let moved = |(index, home): (usize, &Option<usize>)| {
            home.filter(|&seat| seat != index).map(|seat| (index, self.seats[seat].node))
        };
        self.homes.iter().enumerate().filter_map(moved).collect()
    }

    /// Nodes that may hold a copy of a shard although it is recorded elsewhere, because they were asked and never said no.
    pub(crate) fn strays(&self) -> Vec<(usize, NodeId)> {
        let tries = self.tries.iter().enumerate();
        let open = tries.flat_map(|(index, tries)| tries.iter().map(move |&seat| (index, seat)));
        open.chain(self.doubtful.iter().copied()).map(|(index, seat)| (index, self.seats[seat].node)).collect()
    }

    /// Tries that have neither been acknowledged nor failed: index and seat.
    pub(crate) fn outstanding(&self) -> Vec<Send> {
        let tries = self.tries.iter().enumerate();
        tries.flat_map(|(index, tries)| tries.iter().map(move |&seat| Send { index, seat })).collect()
    }

    /// All seats, in the order of the ranking.
    pub(crate) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    pub(crate) fn seat(&self, seat: usize) -> Seat {
        self.seats[seat]
    }

    fn send(&mut self, index: usize, seat: usize) -> Send {
        self.uses[seat] = Use::Tried(index);
        self.tries[index].push(seat);
        Send { index, seat }
    }

    /// The next seat for a shard that has none: a good one, or else a suspect.
    fn replace(&mut self, index: usize) -> Option<Send> {
        self.replace_by(index, false).or_else(|| self.replace_by(index, true))
    }

    fn replace_by(&mut self, index: usize, suspects: bool) -> Option<Send> {
        // The shard's own seat comes first if it was passed over as suspect and nothing better was found.
        let order = std::iter::once(index).chain(0..self.seats.len());
        let found = order.filter(|&seat| seat < self.seats.len()).find(|&seat| {
            self.uses[seat] == Use::Free && self.seats[seat].suspect == suspects && self.group_is_free(seat, index)
        })?;
        Some(self.send(index, found))
    }

    /// Whether no other shard of the stripe is, or is on its way, in the failure domain of `seat`.
    fn group_is_free(&self, seat: usize, index: usize) -> bool {
        let group = self.seats[seat].group;
        let taken = |other: usize| {
            self.uses[other] == Use::Failed
                || self.seats[other].group != group
                || matches!(self.uses[other], Use::Free)
                || self.uses[other] == Use::Tried(index)
        };
        (0..self.seats.len()).all(taken)
    }
}

#[cfg(test)]
mod tests;
