//! Going away on purpose, and saying so.

use common::clock::Time;

use super::{Group, Queue};
use crate::state::Mutant;
use crate::state::table::{Fact, State};
use crate::wire::Body;

/// How often goodbye is said to everybody.
const GOODBYES: u32 = 4;

pub(super) struct Leaving {
    pub(super) goodbyes_left: u32,
    pub(super) next: Time,
}

impl Group {
    pub(in crate::state) fn leave(&mut self, now: Time) {
        if self.leaving.is_some() {
            return;
        }
        let fact = Fact {
            name: self.config.me.clone(),
            incarnation: self.incarnation,
            state: State::Left,
        };
        self.believe(now, fact);
        self.leaving = Some(Leaving {
            goodbyes_left: GOODBYES,
            next: now,
        });
        self.say_goodbye(now);
    }

    /// To everybody, several times: there is no later.
    pub(super) fn say_goodbye(&mut self, now: Time) {
        let pause = self.settings().period() / 4;
        let Some(leaving) = &mut self.leaving else { return };
        if now < leaving.next {
            return;
        }
        if leaving.goodbyes_left == 0 {
            leaving.next = Time(u64::MAX);
            return;
        }
        leaving.goodbyes_left -= 1;
        leaving.next = now + pause;
        if Mutant::SilentLeave.is_on() {
            self.queue = Queue::default();
            self.news.clear();
            return;
        }
        for name in self.config.others.clone() {
            self.send(&name, Body::Tell);
        }
    }

    pub(in crate::state) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    pub(in crate::state) fn is_gone(&self) -> bool {
        self.leaving
            .as_ref()
            .is_some_and(|l| l.goodbyes_left == 0 && l.next == Time(u64::MAX))
    }
}
