//! A stage's state moves between its tasks: what the order records of one task may say of it. That both sides of such a
//! channel agree is checked as for any other.

use common::ids::TaskId;
use protocol::control::{Route, TaskPlan};

use super::shape::is_peer;
use super::state::State;

/// Who hands over to `me` when `next` follows `table`.
fn givers(me: TaskId, table: &Route, next: &Route) -> Vec<TaskId> {
    let is_in = table.tasks.contains(&me);
    let gives = |t: &&TaskId| **t != me && (!is_in || !next.tasks.contains(t));
    table.tasks.iter().filter(gives).copied().collect()
}

/// To whom `me` hands over then.
fn takers(me: TaskId, table: &Route, next: &Route) -> Vec<TaskId> {
    let stays = next.tasks.contains(&me);
    let takes = |t: &&TaskId| **t != me && (!stays || !table.tasks.contains(t));
    next.tasks.iter().filter(takes).copied().collect()
}

impl State {
    fn met(&self, channel: TaskId) -> u32 {
        let marks = self.owned.as_ref().map(|o| &o.marks);
        marks.and_then(|m| m.get(&channel)).copied().unwrap_or(0)
    }

    pub(super) fn mark(
        &mut self,
        from: TaskId,
        version: u32,
        tasks: &[TaskId],
        plan: &TaskPlan,
        wrong: &mut Vec<String>,
    ) {
        if version <= self.met(from) {
            wrong.push(format!(
                "a mark of version {version} of {from}, of which one of {} was met",
                self.met(from)
            ));
        }
        let Some(owned) = &mut self.owned else {
            wrong.push(format!("the state of {}'s stage does not move", plan.task));
            return;
        };
        owned.marks.insert(from, version);
        if version > owned.table.version {
            let route = Route {
                version,
                tasks: tasks.to_vec(),
            };
            if owned.next.as_ref().is_some_and(|next| *next != route) {
                wrong.push(format!(
                    "version {version} is coming, and another is, or it was said to be another"
                ));
            }
            owned.next = Some(route);
        }
    }

    /// Tuples behind a mark wait for the state that they may need.
    pub(super) fn tuples_after_marks(&self, from: TaskId, plan: &TaskPlan, wrong: &mut Vec<String>) {
        if is_peer(from, plan) {
            wrong.push(format!(
                "{from} is of the same stage: it sends keys with their state, no tuples"
            ));
        }
        if let Some(owned) = &self.owned
            && let Some(next) = &owned.next
            && self.met(from) >= next.version
            && !givers(plan.task, &owned.table, next).is_empty()
        {
            wrong.push(format!(
                "it consumed what {from} sent by version {} before it had the state for it",
                next.version
            ));
        }
    }

    pub(super) fn adopt_keys(&self, from: TaskId, plan: &TaskPlan, wrong: &mut Vec<String>) {
        let owned = self.owned.as_ref();
        let gives = owned.and_then(|o| Some(givers(plan.task, &o.table, o.next.as_ref()?)));
        if gives.is_none_or(|g| !g.contains(&from)) {
            wrong.push(format!("{from} had nothing to hand over to {}", plan.task));
        }
    }

    pub(super) fn hand_over(
        &mut self,
        version: u32,
        to: &[TaskId],
        plan: &TaskPlan,
        wrong: &mut Vec<String>,
    ) {
        for task in to {
            self.open(*task);
        }
        let Some(next) = self.owned.as_mut().and_then(|o| o.next.take()) else {
            wrong.push(format!("no mark of version {version} was met"));
            return;
        };
        if next.version != version {
            wrong.push(format!(
                "it put version {version} in force, {} was coming",
                next.version
            ));
        }
        let table = self.owned.as_ref().map(|o| o.table.clone()).unwrap_or_default();
        // Who came later begins by this version, or a later one.
        let heard = plan.upstream.iter().filter(|t| self.consumed(**t) > 0);
        let early = heard.filter(|t| !self.ended.contains(t)).copied();
        let early = early.chain(givers(plan.task, &table, &next));
        let early: Vec<String> = early
            .filter(|t| self.met(*t) < version)
            .map(|t| t.to_string())
            .collect();
        if !early.is_empty() {
            wrong.push(format!(
                "it put version {version} in force before {} had come to it",
                early.join(", ")
            ));
        }
        let takers = takers(plan.task, &table, &next);
        if takers != to {
            let names = |tasks: &[TaskId]| tasks.iter().map(TaskId::to_string).collect::<Vec<_>>().join(", ");
            wrong.push(format!(
                "it handed over to [{}], by version {version} it was to be [{}]",
                names(to),
                names(&takers)
            ));
        }
        if let Some(owned) = &mut self.owned {
            owned.table = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use common::ids::{Epoch, NodeName};
    use protocol::control::TaskPlan;
    use protocol::task_log::Order;

    use super::*;
    use job::plan::{Change, Scaling};

    const fn t(stage: u16, index: u16) -> TaskId {
        TaskId { stage, index }
    }

    /// Two sources, a stage that counts, which gains `s1t2` and loses it again.
    fn plan(task: TaskId) -> TaskPlan {
        let mut plan = job::plan::sample::sample(1, 2, 2, &[NodeName::new("n1").unwrap()]);
        plan.scaling = Some(Scaling {
            low: 0,
            high: 1,
            most: 8,
            stateful: true,
        });
        plan.stages[1].op.as_mut().unwrap().kind = protocol::control::OpKind::Aggregate;
        for up in [true, false] {
            let (version, tasks) = plan.scaled(1, up).unwrap();
            plan.apply(&Change::Scale {
                stage: 1,
                version,
                tasks,
            });
        }
        plan.task_plan(task, Epoch(1))
    }

    fn mark(from: TaskId, at: u64, version: u32) -> Order {
        let tasks = match version {
            1 => vec![t(1, 0), t(1, 1), t(1, 2)],
            _ => vec![t(1, 0), t(1, 1)],
        };
        Order::Mark {
            from,
            at,
            version,
            tasks,
        }
    }

    fn input(from: TaskId, start: u64) -> Order {
        Order::Input {
            from,
            start,
            end: start + 5,
        }
    }

    fn hand_over(version: u32, to: &[TaskId]) -> Order {
        let to = to.to_vec();
        Order::HandOver { version, to }
    }

    fn adopt(from: TaskId) -> Order {
        Order::Adopt {
            from,
            start: 0,
            end: 3,
        }
    }

    /// What is wrong with the last of the orders; nothing is with those before.
    fn last(task: TaskId, orders: &[Order]) -> String {
        let plan = plan(task);
        let mut state = State::new(&plan);
        let mut wrong = vec![];
        for order in orders {
            assert!(wrong.is_empty(), "{wrong:?}");
            wrong = state.apply(order, &plan);
        }
        wrong.join("; ")
    }

    #[test]
    fn who_loses_goes_on_and_hands_over_when_all_have_met_the_mark() {
        let (u0, u1) = (t(0, 0), t(0, 1));
        let begin = [input(u0, 0), mark(u0, 5, 1), input(u0, 6), input(u1, 0)];
        let with = |more: &[Order]| last(t(1, 0), &[&begin, more].concat());
        assert_eq!(
            with(&[mark(u1, 5, 1), hand_over(1, &[t(1, 2)]), input(u0, 11)]),
            ""
        );
        let end = Order::InputEnd { from: u1, at: 5 };
        assert_eq!(with(&[end, hand_over(1, &[t(1, 2)])]), "");
        assert!(with(&[hand_over(1, &[t(1, 2)])]).contains("before s0t1 had come to it"));
        assert!(with(&[mark(u1, 5, 1), hand_over(1, &[])]).contains("it was to be [s1t2]"));
        assert!(with(&[mark(u1, 5, 1), hand_over(2, &[t(1, 2)])]).contains("1 was coming"));
        assert!(with(&[mark(u0, 11, 1)]).contains("of which one of 1 was met"));
        assert!(with(&[adopt(t(1, 1))]).contains("had nothing to hand over"));
        assert!(last(t(1, 0), &[hand_over(1, &[t(1, 2)])]).contains("no mark"));
    }

    #[test]
    fn who_gains_waits_for_all_that_it_gains() {
        let (u0, u1) = (t(0, 0), t(0, 1));
        let begin = [
            mark(u0, 0, 1),
            adopt(t(1, 0)),
            mark(t(1, 0), 3, 1),
            mark(u1, 0, 1),
        ];
        let with = |more: &[Order]| last(t(1, 2), &[&begin, more].concat());
        assert_eq!(with(&[mark(t(1, 1), 0, 1), hand_over(1, &[]), input(u0, 1)]), "");
        assert!(with(&[hand_over(1, &[])]).contains("before s1t1 had come to it"));
        assert!(with(&[input(u0, 1)]).contains("before it had the state for it"));
        assert!(with(&[input(t(1, 1), 0)]).contains("no tuples"));
        // Who is taken out gives to all who stay.
        let all = [
            mark(t(1, 1), 0, 1),
            hand_over(1, &[]),
            mark(u0, 1, 2),
            mark(u1, 1, 2),
        ];
        assert_eq!(
            with(&[&all[..], &[hand_over(2, &[t(1, 0), t(1, 1)])]].concat()),
            ""
        );
    }
}
