//! A stage's state moves between its tasks when its routing changes:
//!
//! ```text
//!  upstream u0  ..tuples by v | MARK v+1 | tuples by v+1..  --> every task of the stage, of v and of v+1
//!  upstream u1  ....tuples by v....... | MARK v+1 | ......  -->
//!
//!  the loser    goes on with all channels; once all have met the mark: HAND OVER = keys with their state, MARK v+1 ==> the gainer
//!  the gainer   holds each channel behind the mark; ADOPTS; once all marks have come, its peers' too: HAND OVER (nothing)
//! ```
//! Behind an upstream task's mark there is nothing for the loser that belongs to another: so its state of those groups is final
//! when all channels have met the mark, and it need not hold anything. The gainer must: what stands behind a mark may be of a
//! group whose state has not come.
//!
//! Keys with their state are units of a channel like any other, from a task to another of the same stage: numbered, kept until
//! acknowledged, made again by a restart that lives through the same orders. Marks, adoption and hand-over are orders. So all that
//! holds for tuples holds for state, and nothing else is stored. One task at a time is added or taken out: nobody both gains
//! and loses, and nobody waits in a circle.

use std::sync::Arc;

use common::ids::TaskId;
use protocol::batch::key_hash;
use protocol::control::{Format, Route};
use protocol::groups::Owners;
use protocol::task_log::{Order, Owned};

use super::Task;
use super::effect::Work;
use super::mutants::Mutant;
use super::output::Output;

/// Whose the key groups are: what [`Owned`] says, worked out.
#[derive(Debug)]
pub(super) struct Groups {
    me: TaskId,
    now: (Route, Arc<Owners>),
    next: Option<(Route, Arc<Owners>)>,
}

fn with_owners(table: &Route) -> (Route, Arc<Owners>) {
    (table.clone(), Arc::new(Owners::new(&table.tasks)))
}

fn owns(table: &(Route, Arc<Owners>), me: TaskId, key: &[u8]) -> bool {
    table.0.tasks.get(table.1.at_key(key)) == Some(&me)
}

impl Groups {
    pub fn new(me: TaskId, table: &Route) -> Self {
        Self {
            me,
            now: with_owners(table),
            next: None,
        }
    }

    fn follow(&mut self, owned: &Owned) {
        if self.now.0 != owned.table {
            self.now = match self.next.take() {
                Some(next) if next.0 == owned.table => next,
                _ => with_owners(&owned.table),
            };
        }
        if self.next.as_ref().map(|next| &next.0) != owned.next.as_ref() {
            self.next = owned.next.as_ref().map(with_owners);
        }
    }

    /// Who hands over to this task when `next` comes into force.
    fn givers<'a>(&'a self, next: &'a Route) -> impl Iterator<Item = TaskId> + 'a {
        let table = &self.now.0.tasks;
        let is_in = table.contains(&self.me);
        // Everybody gives to one that is new; those that leave the stage give to the others.
        let gives = move |t: &&TaskId| !is_in || !next.tasks.contains(t);
        table.iter().filter(gives).filter(|t| **t != self.me).copied()
    }

    /// To whom this task hands over then.
    fn takers(&self, next: &Route) -> Vec<TaskId> {
        let table = &self.now.0.tasks;
        let stays = next.tasks.contains(&self.me);
        let takes = |t: &&TaskId| **t != self.me && (!stays || !table.contains(t));
        next.tasks.iter().filter(takes).copied().collect()
    }
}

/// Is the next piece of `from`'s channel to wait?
pub(super) fn is_held(groups: Option<&Groups>, owned: Option<&Owned>, from: TaskId) -> bool {
    let (Some(groups), Some(owned)) = (groups, owned) else {
        return false;
    };
    let Some(next) = &owned.next else {
        // State comes before its receiver has met a mark: it could not tell from a snapshot's keys that are not its own.
        return groups.me.stage == from.stage;
    };
    let met = owned.marks.get(&from).copied().unwrap_or(0) >= next.version;
    met && groups.givers(next).next().is_some() && !Mutant::Unheld.is_on()
}

impl Task {
    /// Another task of the same stage, where they hand state over to each other.
    pub(super) fn is_peer(&self, task: TaskId) -> bool {
        let me = self.groups.as_ref().map(|g| g.me);
        me.is_some_and(|me| me.stage == task.stage)
    }

    /// A version of the stage's own routing is known and not in force.
    pub(super) fn is_moving(&self) -> bool {
        self.now.owned.as_ref().is_some_and(|o| o.next.is_some())
    }

    /// What `self.now` says of the stage's own routing has changed.
    pub(super) fn regroup(&mut self) {
        if let (Some(groups), Some(owned)) = (&mut self.groups, &self.now.owned) {
            groups.follow(owned);
        }
    }

    /// The version to put in force now, and whom to hand over to.
    pub(super) fn due_handover(&self) -> Option<(u32, Vec<TaskId>)> {
        let (groups, owned) = (self.groups.as_ref()?, self.now.owned.as_ref()?);
        let next = owned.next.as_ref()?;
        let met = |t: &TaskId| owned.marks.get(t).copied().unwrap_or(0) >= next.version;
        let awaited = self.channels.awaited();
        let aligned = awaited.iter().all(|t| self.now.ended.contains(t) || met(t));
        let aligned = aligned || Mutant::Unaligned.is_on();
        (aligned && groups.givers(next).all(|t| met(&t))).then(|| (next.version, groups.takers(next)))
    }

    /// Makes the outputs to them.
    pub(super) fn open(&mut self, to: &[TaskId]) {
        for task in to {
            self.outputs.open(*task);
        }
    }

    pub(super) fn hand_over(&mut self, version: u32, to: Vec<TaskId>) -> Work {
        self.open(&to);
        let order = Order::HandOver {
            version,
            to: to.clone(),
        };
        self.take(order, Work::HandOver { version, to })
    }

    /// It is done: the outputs say so, and the version is in force.
    pub(super) fn handed_over(&mut self, to: &[TaskId], pos: u64) {
        self.regroup();
        if let Some(owned) = &self.now.owned {
            for task in to {
                self.outputs.mark(*task, &owned.table, pos);
            }
        }
    }

    /// Which keys are others' by the version that is put in force with the work at hand.
    pub fn leaving(&self) -> impl Fn(&[u8]) -> bool + use<> {
        let groups = self.groups.as_ref();
        let next = groups.and_then(|g| Some((g.me, g.next.clone()?)));
        move |key: &[u8]| next.as_ref().is_some_and(|(me, next)| !owns(next, *me, key))
    }

    /// Where keys with their state go.
    pub fn handover(&mut self) -> Handover<'_> {
        let next = self.groups.as_ref().and_then(|g| g.next.clone());
        let (route, owners) = next.unwrap_or_default();
        let to = route.tasks.iter();
        let to = to.map(|t| self.outputs.find(*t)).collect();
        Handover {
            outputs: self.outputs.list_mut(),
            to,
            owners,
            pos: self.now.pos + 1,
            batch_bytes: self.config.batch_bytes,
        }
    }

    /// A snapshot may hold keys that were handed over since. Those of the version that comes stay: they may have been adopted.
    pub fn is_foreign(&self, key: &[u8]) -> bool {
        !Mutant::Stale.is_on()
            && self.groups.as_ref().is_some_and(|g| {
                let mine = |table| owns(table, g.me, key);
                !mine(&g.now) && !g.next.as_ref().is_some_and(mine)
            })
    }

    /// The newest version of the stage's own routing that no restart falls behind: what it took is handed over, and has arrived.
    pub fn moved(&self) -> u32 {
        self.checkpoints
            .durable()
            .owned
            .as_ref()
            .map_or(0, |o| o.table.version)
    }

    /// How many upstream tasks it does not finish before; 0: it has finished. One that has finished knows nothing of upstream
    /// tasks that are added then: it must never meet their marks.
    pub fn awaits(&self) -> u32 {
        match self.now.done {
            true => 0,
            false => self.channels.awaited().len() as u32,
        }
    }
}

/// Takes keys with their state to their new owners.
pub struct Handover<'a> {
    outputs: &'a mut [Output],
    /// By place in the new table.
    to: Vec<Option<usize>>,
    owners: Arc<Owners>,
    pos: u64,
    batch_bytes: usize,
}

impl ops::Emit for Handover<'_> {
    fn emit(&mut self, key: &[u8], state: &[u8]) {
        let to = self.to.get(self.owners.at(key_hash(key))).copied().flatten();
        debug_assert!(to.is_some(), "keys leave for those who take them only");
        let Some(output) = to.and_then(|to| self.outputs.get_mut(to)) else {
            return;
        };
        output.emit(key, state, Format::Tsv, u64::MAX);
        if output.open_bytes() >= self.batch_bytes {
            output.close(self.pos);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASKS: [TaskId; 3] = [
        TaskId { stage: 2, index: 0 },
        TaskId { stage: 2, index: 1 },
        TaskId { stage: 2, index: 2 },
    ];

    fn table(version: u32, tasks: &[TaskId]) -> Route {
        Route {
            version,
            tasks: tasks.to_vec(),
        }
    }

    fn givers(groups: &Groups, next: &Route) -> Vec<TaskId> {
        groups.givers(next).collect()
    }

    #[test]
    fn everybody_gives_to_one_that_is_new_and_nobody_takes_from_it() {
        let (before, after) = (table(0, &TASKS[..2]), table(1, &TASKS));
        let new = Groups::new(TASKS[2], &before);
        assert_eq!(
            (givers(&new, &after), new.takers(&after)),
            (TASKS[..2].to_vec(), vec![])
        );
        let old = Groups::new(TASKS[0], &before);
        assert_eq!(
            (givers(&old, &after), old.takers(&after)),
            (vec![], vec![TASKS[2]])
        );
    }

    #[test]
    fn one_that_leaves_gives_to_all_others() {
        let (before, after) = (table(0, &TASKS), table(1, &TASKS[1..]));
        let leaver = Groups::new(TASKS[0], &before);
        assert_eq!(
            (givers(&leaver, &after), leaver.takers(&after)),
            (vec![], TASKS[1..].to_vec())
        );
        let stayer = Groups::new(TASKS[1], &before);
        assert_eq!(
            (givers(&stayer, &after), stayer.takers(&after)),
            (vec![TASKS[0]], vec![])
        );
    }

    #[test]
    fn who_gains_holds_a_channel_behind_its_mark_and_who_loses_does_not() {
        let (before, after) = (table(0, &TASKS[..2]), table(1, &TASKS));
        let upstream = TaskId::new(1, 0);
        let owned = Owned {
            table: before.clone(),
            next: Some(after),
            marks: [(upstream, 1)].into(),
        };
        let held = |me: TaskId, from: TaskId| is_held(Some(&Groups::new(me, &before)), Some(&owned), from);
        assert!(held(TASKS[2], upstream) && !held(TASKS[0], upstream));
        assert!(!held(TASKS[2], TaskId::new(1, 1)), "it has not met that mark");
        assert!(!held(TASKS[2], TASKS[0]), "state is what it waits for");
        let unmarked = Owned {
            table: before.clone(),
            ..Owned::default()
        };
        assert!(is_held(
            Some(&Groups::new(TASKS[2], &before)),
            Some(&unmarked),
            TASKS[0]
        ));
    }
}
