//! Nodes that lie together: they name only each other, give out no record, and bring records of keys that they made up.

use std::time::Duration;

use atoll_find::{Answer, Ask, Contact, Key, Message};

use super::tag::{self, Tag};
use super::{Event, FindWorld};

/// Which nodes are hostile.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    first: u32,
    count: u32,
}

/// How many keys an attacker tries for one that is near the victim.
const TRIES: u32 = 256;

impl FindWorld {
    /// Adds this many hostile nodes with keys near those of a victim, in `narrow` /64s of `wide` /48s. They make themselves known to everybody.
    pub fn attack(&mut self, victim: usize, count: u32, narrow: u32, wide: u32) {
        let first = self.nodes.len() as u32;
        let target = Key::of(&self.nodes[victim].me.node);
        for _ in 0..count {
            let index = self.nodes.len() as u32;
            self.add();
            let network = index % narrow;
            let at = format!("[2001:db8:{:x}:{:x}::{:x}]:4000", network % wide, network, index & 0xffff);
            let tried = (0..TRIES).map(|generation| tag::contact_in(index, generation, at.clone()));
            let near = |contact: &Contact| distance(Key::of(&contact.node), target);
            let Some(me) = tried.min_by_key(near) else { continue };
            let it = &mut self.nodes[index as usize];
            (it.me, it.alive, it.since_us) = (me, true, self.now_us);
        }
        self.attack = Some(Attack { first, count });
        self.flood(first);
    }

    /// Each attacker speaks to a hundred random nodes: to be taken into their tables, and to bring a record of a node that it made up.
    fn flood(&mut self, honest: u32) {
        let Some(attack) = self.attack else { return };
        for hostile in attack.first..attack.first + attack.count {
            for round in 0..100 {
                let to = self.nodes[self.random.below(honest as usize)].me;
                let made_up = tag::contact(u32::MAX - hostile * 100 - round, 0).node;
                let keep = Some(Tag { node: made_up, sequence: self.now_us / 1000 });
                let from = self.nodes[hostile as usize].me;
                let key = Key::of(&from.node);
                let ask = Ask { id: round, serves: true, key, contacts: 0, newer_than: None, keep };
                let at = self.now_us + self.random.below(60_000_000) as u64;
                self.queue.push(at, Event::Deliver { from, to, message: Message::Ask(ask) });
            }
        }
        self.run(Duration::from_secs(60));
    }

    pub(super) fn is_hostile(&self, node: u32) -> bool {
        self.attack.is_some_and(|attack| (attack.first..attack.first + attack.count).contains(&node))
    }

    /// What a hostile node answers, if this is one: the hostile ones nearest to what was asked, and no record.
    pub(super) fn hostile_answer(
        &self,
        _from: Contact,
        to: Contact,
        message: &Message<Tag>,
    ) -> Option<Vec<Message<Tag>>> {
        if !self.is_hostile(tag::index(&to.node)) {
            return None;
        }
        let Message::Ask(ask) = message else { return Some(Vec::new()) };
        let attack = self.attack?;
        let hostile = attack.first as usize..(attack.first + attack.count) as usize;
        let mut contacts: Vec<Contact> = self.nodes[hostile].iter().map(|it| it.me).collect();
        contacts.sort_by_cached_key(|contact| distance(Key::of(&contact.node), ask.key));
        contacts.truncate(usize::from(ask.contacts));
        Some(vec![Message::Answer(Answer { id: ask.id, record: None, contacts })])
    }
}

/// The metric of the space.
fn distance(a: Key, b: Key) -> u128 {
    let [a, b] = [a, b].map(|key| u128::from_be_bytes(key.into()));
    a ^ b
}
