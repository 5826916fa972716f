//! The bus of one node as a state machine without I/O: inputs in, writes and effects out.
//!
//! The driver commits the writes of a step before it carries out the effects of it, and drops the core for one loaded anew when a commit fails: so the core
//! may act at once on what is not on the disk yet, and nobody outside ever sees something that a crash could take back. Time comes with each
//! input: steady for everything that lasts, of the wall for what is written down.

#[cfg(test)]
mod disk;
mod inbox;
mod outbox;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use atoll_ids::{MessageId, NodeId, OwnerId};
use bytes::Bytes;

use self::inbox::Inbox;
use self::outbox::Outbox;
use crate::frames::{Answer, Question};
use crate::limits::Limits;
use crate::records::{InRecord, InState, OutRecord, Stored, Write};
use crate::rule::{Rules, Who};
use crate::topic::{Pattern, Topic};

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since some moment of this process; never goes back.
    pub steady: u64,
    /// Milliseconds since 1970, as the machine's clock says; may jump.
    pub wall: u64,
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its id, drawn at random.
    pub id: MessageId,
    /// To whom.
    pub to: Vec<NodeId>,
    /// What it is about.
    pub topic: Topic,
    /// The message that it answers.
    pub answers: Option<MessageId>,
    /// How long it may wait, in milliseconds.
    pub ttl: u64,
    /// The payload.
    pub payload: Bytes,
}

/// Why a message is not accepted. Nothing of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendRefusal {
    /// The payload is too large.
    #[error("a message has at most {max} bytes, this one has {bytes}: store it with `atoll put` and send its name")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// It goes to nobody, or to too many.
    #[error("a message goes to 1 to {max} nodes, this one to {count}")]
    Recipients {
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// The time to live is out of range.
    #[error("a message waits for 1 second to 30 days")]
    Ttl,
    /// The outbox is full.
    #[error(
        "the outbox is full: {messages} messages of {bytes} bytes wait for nodes that do not take them; `atoll net messages` lists them"
    )]
    Full {
        /// Messages waiting.
        messages: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// There is a message with this id.
    #[error("a message with this id was sent already")]
    Twice,
}

/// What a consumer wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Messages on these topics.
    pub topics: Pattern,
    /// Only from these nodes.
    pub from: Option<Who>,
    /// Only answers to this message.
    pub answers: Option<MessageId>,
}

impl Filter {
    /// Messages on these topics from anybody.
    #[must_use]
    pub fn topics(topics: Pattern) -> Self {
        Self { topics, from: None, answers: None }
    }
}

/// A message that a consumer holds: nobody else gets it until it is acknowledged or released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Which message.
    pub arrival: u64,
    /// Which time it was handed out.
    pub tag: u64,
}

/// What happens to the bus. Numbers called `token` and `waiter` are the driver's: it tells by them which answer belongs to which question.
#[derive(Debug, Clone)]
pub enum Input {
    /// A message is to be sent.
    Send {
        /// Comes back with [`Effect::Accepted`].
        token: u64,
        /// The message.
        message: Outgoing,
    },
    /// A node is connected: what waits for it is tried at once.
    Reachable(NodeId),
    /// An exchange that [`Effect::Exchange`] asked for is over.
    Exchanged {
        /// With whom.
        to: NodeId,
        /// Which.
        exchange: u64,
        /// The answer, or what went wrong.
        result: Result<Answer, String>,
    },
    /// A peer says something.
    Heard {
        /// Comes back with [`Effect::Answer`].
        token: u64,
        /// Who.
        from: NodeId,
        /// Whose node that is, if that is known.
        owner: Option<OwnerId>,
        /// What.
        question: Question,
    },
    /// A consumer waits for a message.
    Want {
        /// Comes back with [`Effect::Hand`].
        waiter: u64,
        /// Which.
        filter: Filter,
    },
    /// A consumer waits no more.
    Gone(u64),
    /// Answers to this message are for whoever asks for them alone.
    Asking(MessageId),
    /// They are for anybody again.
    AskingOver(MessageId),
    /// A consumer is done with a message.
    Ack {
        /// Comes back with [`Effect::Acked`].
        token: u64,
        /// Which.
        hold: Hold,
    },
    /// A consumer gives a message back: it is for the next one.
    Release(Hold),
    /// Time has passed.
    Tick,
}

/// What one node is told in an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A greeting.
    Hello,
    /// Messages, in order, each with the milliseconds that it may still wait. Their payloads are on the disk.
    Deliver(Vec<(OutRecord, u64)>),
}

/// What is to be done once the writes are on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell a sender whether its message is accepted.
    Accepted {
        /// Of [`Input::Send`].
        token: u64,
        /// Whether.
        result: Result<(), SendRefusal>,
    },
    /// Speak to a node and come back with [`Input::Exchanged`].
    Exchange {
        /// To whom.
        to: NodeId,
        /// Which exchange.
        exchange: u64,
        /// What is said.
        ask: Ask,
    },
    /// Answer a peer.
    Answer {
        /// Of [`Input::Heard`].
        token: u64,
        /// What is answered.
        answer: Answer,
    },
    /// Give a consumer a message. If it is gone, come back with [`Input::Release`].
    Hand {
        /// Of [`Input::Want`].
        waiter: u64,
        /// How it says that it is done.
        hold: Hold,
        /// The message; its payload is on the disk.
        record: InRecord,
    },
    /// Tell a consumer whether its acknowledgement holds: only if it still had the message.
    Acked {
        /// Of [`Input::Ack`].
        token: u64,
        /// Whether.
        held: bool,
    },
    /// A message has come to its end with one of its recipients.
    Settled(MessageId),
}

/// What comes of one step.
#[derive(Debug, Default)]
pub struct Outputs {
    /// One commit.
    pub writes: Vec<Write>,
    /// After it.
    pub effects: Vec<Effect>,
}

/// How the bus of a node is.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// Limits on everything.
    pub limits: Limits,
    /// Who may send here.
    pub rules: Rules,
    /// What pauses are drawn from.
    pub seed: u64,
}

/// A message of the outbox as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutStatus {
    /// The message.
    pub record: OutRecord,
    /// While it waits: what was in the way the last time, if anything was.
    pub problem: Option<String>,
}

/// What the bus has done since the node was started, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages waiting in the outbox, counted once for each recipient.
    pub waiting: u64,
    /// Messages in the inbox that nobody has acknowledged.
    pub unread: u64,
    /// Messages delivered, for each recipient.
    pub delivered: u64,
    /// Messages that arrived.
    pub arrived: u64,
    /// Messages whose time was over in the outbox or the inbox.
    pub expired: u64,
    /// Messages that this node did not take.
    pub turned_away: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Core {
    outbox: Outbox,
    inbox: Inbox,
    rules: Rules,
    counts: Counts,
}

impl Core {
    /// The bus as it was kept. What was being said and who was waiting is forgotten.
    #[must_use]
    pub fn load(config: CoreConfig, now: Now, stored: Stored) -> Self {
        let Stored { high, outbox, inbox, marks } = stored;
        Self {
            outbox: Outbox::load(config.limits, config.seed, now, high, outbox),
            inbox: Inbox::load(config.limits, now, inbox, marks),
            rules: config.rules,
            counts: Counts::default(),
        }
    }

    /// Takes over from a core that is given up, so that what is still under way with that one is not mistaken for this one's.
    #[must_use]
    pub fn after(mut self, given_up: &Self) -> Self {
        self.outbox.after(&given_up.outbox);
        self.inbox.after(&given_up.inbox);
        self.counts = given_up.counts;
        self
    }

    /// Takes in one thing that happened.
    pub fn step(&mut self, now: Now, input: Input) -> Outputs {
        let mut out = Outputs::default();
        match input {
            Input::Send { token, message } => {
                let result = self.outbox.send(now, message, &mut out);
                out.effects.push(Effect::Accepted { token, result });
            }
            Input::Reachable(node) => self.outbox.reachable(now, &node),
            Input::Exchanged { to, exchange, result } => {
                self.outbox.exchanged(now, to, exchange, result, &mut out);
            }
            Input::Heard { token, from, owner, question } => {
                let answer = self.hear(now, from, owner, question, &mut out);
                out.effects.push(Effect::Answer { token, answer });
            }
            Input::Want { waiter, filter } => self.inbox.want(waiter, filter),
            Input::Gone(waiter) => self.inbox.gone(waiter),
            Input::Asking(id) => self.inbox.asking(id),
            Input::AskingOver(id) => self.inbox.asking_over(id),
            Input::Ack { token, hold } => {
                let held = self.inbox.ack(now, hold, &mut out);
                out.effects.push(Effect::Acked { token, held });
            }
            Input::Release(hold) => self.inbox.release(hold),
            Input::Tick => {}
        }
        self.counts.expired += self.outbox.expire(now, &mut out) + self.inbox.expire(now, &mut out);
        self.inbox.hand_out(&self.rules, &mut out);
        self.outbox.pump(now, &mut out);
        out
    }

    fn hear(
        &mut self,
        now: Now,
        from: NodeId,
        owner: Option<OwnerId>,
        question: Question,
        out: &mut Outputs,
    ) -> Answer {
        let batch = match question {
            Question::Hello => return Answer::Known(self.inbox.mark(&from)),
            Question::Deliver(batch) => batch,
        };
        let judge = |id: Option<&MessageId>, topic: &Topic| match id {
            Some(id) => inbox::judge_answer(self.outbox.sent(id, &from)),
            None => inbox::judge(self.rules.judge(&from, owner.as_ref(), topic)),
        };
        let (answer, arrived) = self.inbox.hear(now, (from, owner), batch, judge, out);
        self.counts.arrived += arrived;
        if let Answer::Heard { stop: Some(_), .. } = answer {
            self.counts.turned_away += 1;
        }
        answer
    }

    /// When the next [`Input::Tick`] is due, in steady milliseconds; `None` if nothing happens by itself.
    #[must_use]
    pub fn next_tick(&self) -> Option<u64> {
        [self.outbox.next_tick(), self.inbox.next_tick()].into_iter().flatten().min()
    }

    /// The outbox by position: what waits, and the last of what does not any more.
    pub fn outbox(&self) -> impl Iterator<Item = OutStatus> + '_ {
        self.outbox.list()
    }

    /// The inbox by arrival: what nobody has acknowledged, and the last of what somebody has.
    pub fn inbox(&self) -> impl Iterator<Item = &InRecord> {
        self.inbox.list()
    }

    /// What became of a message, for each of its recipients; none if it is not remembered.
    #[must_use]
    pub fn fate(&self, id: &MessageId) -> Vec<OutStatus> {
        self.outbox.fate(id)
    }

    /// Messages with this id that arrived and are remembered. More than one if nodes repeat ids.
    #[must_use]
    pub fn arrived(&self, id: &MessageId) -> Vec<InRecord> {
        let known =
            self.inbox.list().filter(|record| record.id == *id && !matches!(record.state, InState::Expired { .. }));
        known.cloned().collect()
    }

    /// Figures.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (waiting, delivered) = self.outbox.counts();
        Counts { waiting, delivered, unread: self.inbox.unread(), ..self.counts }
    }
}

/// What is left of a time to live that began at `since` by the wall's clock. A clock that went back cannot prolong it beyond the whole.
fn left(now: Now, since: u64, ttl: u64) -> u64 {
    since.saturating_add(ttl).saturating_sub(now.wall).min(ttl)
}
