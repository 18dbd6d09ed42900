//! One input at a time.

mod change;

use std::collections::BTreeSet;
use std::time::Duration;

use common::clock::Time;
use common::exit::Exit;
use common::ids::{Epoch, NodeName, TaskId};
use protocol::control::{Failure, Report, ToLeader, ToWorker};

use super::{Config, ConnId, Effect, Input, Job, JobEvent, TICK};
use crate::plan::Plan;
use crate::plan::sample::sample;

fn names(n: usize) -> Vec<NodeName> {
    (1..=n).map(|i| NodeName::new(format!("n{i}")).unwrap()).collect()
}

struct Rig {
    job: Job,
    now: Time,
    conns: u64,
}

impl Rig {
    /// One source, one stage of one task, begun.
    fn new(nodes: usize, max_restarts: u32) -> Self {
        Self::of(sample(1, 1, 1, &names(nodes)), nodes, max_restarts)
    }

    fn of(plan: Plan, nodes: usize, max_restarts: u32) -> Self {
        let config = Config {
            lease: Duration::from_secs(3),
            max_restarts,
        };
        let mut rig = Self {
            job: Job::new(plan, config, names(nodes), BTreeSet::new()),
            now: Time::from_millis(1000),
            conns: 0,
        };
        rig.give(Input::Begin);
        rig
    }

    fn give(&mut self, input: Input) -> Vec<Effect> {
        let mut out = vec![];
        self.job.handle(self.now, input, &mut out);
        out
    }

    /// So much later, with the driver's ticks on the way.
    fn after(&mut self, ms: u64) -> Vec<Effect> {
        let (end, mut out) = (self.now + Duration::from_millis(ms), vec![]);
        while self.now < end {
            self.now = end.min(self.now + TICK);
            out.extend(self.give(Input::Tick));
        }
        out
    }

    /// So much later, without a tick: this process did not get round to anything.
    fn stall(&mut self, ms: u64) -> Vec<Effect> {
        self.now = self.now + Duration::from_millis(ms);
        self.give(Input::Tick)
    }

    fn register(&mut self, task: TaskId, epoch: u64) -> (ConnId, Vec<Effect>) {
        self.conns += 1;
        let (conn, addr) = (ConnId(self.conns), "127.0.0.1:9".parse().unwrap());
        let out = self.give(Input::Registered {
            conn,
            task,
            epoch: Epoch(epoch),
            pid: 7,
            addr,
        });
        (conn, out)
    }

    fn say(&mut self, conn: ConnId, message: ToLeader) -> Vec<Effect> {
        self.give(Input::Message { conn, message })
    }

    fn done(&mut self, conn: ConnId) -> Vec<Effect> {
        self.say(conn, ToLeader::Done(Report::default()))
    }
}

const SOURCE: TaskId = TaskId { stage: 0, index: 0 };
const SINK: TaskId = TaskId { stage: 1, index: 0 };

fn launched(out: &[Effect]) -> Vec<(TaskId, u64, &str)> {
    let launches = out.iter().filter_map(|e| match e {
        Effect::Launch { task, epoch, node } => Some((*task, epoch.0, node.as_str())),
        _ => None,
    });
    launches.collect()
}

fn failed(out: &[Effect]) -> Option<&str> {
    out.iter().find_map(|e| match e {
        Effect::Failed { why } => Some(why.as_str()),
        _ => None,
    })
}

fn refused(out: &[Effect]) -> bool {
    out.iter().any(|e| {
        matches!(
            e,
            Effect::Send {
                message: ToWorker::Refused { .. },
                ..
            }
        )
    })
}

#[test]
fn a_job_runs_to_its_end() {
    let mut rig = Rig::new(1, 5);
    let (sink, out) = rig.register(SINK, 1);
    assert!(
        matches!(&out[0], Effect::Send { message: ToWorker::Plan(p), .. } if p.task == SINK && p.epoch == Epoch(1))
    );
    let (source, out) = rig.register(SOURCE, 1);
    let peers = out.iter().any(|e| matches!(e, Effect::Send { conn, message: ToWorker::Peers(p) } if *conn == source && p[0].task == SINK));
    assert!(peers, "the source hears of its receiver: {out:?}");
    rig.say(source, ToLeader::Started { replayed: 0 });
    assert!(!rig.done(source).contains(&Effect::Done));
    let out = rig.done(sink);
    assert!(out.contains(&Effect::Done));
    let finished = out
        .iter()
        .filter(|e| {
            matches!(
                e,
                Effect::Send {
                    message: ToWorker::Finish,
                    ..
                }
            )
        })
        .count();
    assert_eq!(finished, 2);
    assert_eq!(rig.job.left().len(), 2);
    rig.give(Input::Exited {
        task: SINK,
        epoch: Epoch(1),
        exit: Exit::Code(0),
        stderr: vec![],
    });
    assert_eq!(rig.job.left().len(), 1);
}

#[test]
fn a_closed_connection_is_replaced_at_once_elsewhere_and_its_sender_hears_of_it() {
    let mut rig = Rig::new(2, 5);
    let (sink, _) = rig.register(SINK, 1);
    let (source, _) = rig.register(SOURCE, 1);
    let out = rig.give(Input::ConnClosed { conn: sink });
    let first = rig.job.plan().nodes[&SINK].clone();
    let again = launched(&out);
    assert_eq!((again[0].0, again[0].1), (SINK, 2));
    assert_ne!(again[0].2, first.as_str());
    assert!(refused(&rig.register(SINK, 1).1), "the old epoch");
    let (_, out) = rig.register(SINK, 2);
    let told = out.iter().any(
        |e| matches!(e, Effect::Send { conn, message: ToWorker::Peers(p) } if *conn == source && p[0].epoch == Epoch(2)),
    );
    assert!(told, "{out:?}");
    assert!(refused(&rig.register(SINK, 2).1), "a second of the same epoch");
    assert!(
        refused(&rig.register(SINK, 3).1),
        "an epoch that was never launched"
    );
    assert!(refused(&rig.register(TaskId::new(9, 9), 1).1), "no such task");
}

#[test]
fn a_stall_of_the_leader_costs_nobody_the_lease() {
    let mut rig = Rig::new(1, 5);
    rig.register(SOURCE, 1);
    rig.register(SINK, 1);
    rig.after(100);
    let failed = |out: &[Effect]| {
        out.iter()
            .any(|e| matches!(e, Effect::Event(JobEvent::Fail { .. })))
    };
    assert!(!failed(&rig.stall(60_000)) && !failed(&rig.after(2_500)));
    assert!(failed(&rig.after(1_000)), "then they are really silent");
}

#[test]
fn who_says_that_its_node_is_late_has_more_time_and_so_have_those_beside_it() {
    let mut rig = Rig::new(1, 5);
    let (source, _) = rig.register(SOURCE, 1);
    rig.register(SINK, 1);
    rig.after(100);
    let late = Report {
        late_ms: 1000,
        ..Report::default()
    };
    rig.say(source, ToLeader::Beat(late));
    let failed = |out: &[Effect]| {
        out.iter()
            .any(|e| matches!(e, Effect::Event(JobEvent::Fail { .. })))
    };
    assert!(!failed(&rig.after(6_500)), "both have seven seconds");
    assert!(failed(&rig.after(1_000)));
}

#[test]
fn silence_costs_the_lease_and_the_zombie_is_killed_later() {
    let mut rig = Rig::new(2, 5);
    rig.register(SINK, 1);
    assert!(launched(&rig.after(2900)).is_empty());
    assert_eq!(launched(&rig.after(100)).len(), 1);
    rig.register(SINK, 2);
    // Meanwhile the source never registers and is launched again.
    let kills: Vec<Effect> = (0..400)
        .flat_map(|_| rig.after(100))
        .filter(|e| matches!(e, Effect::Kill { task, epoch, .. } if *task == SINK && *epoch == Epoch(1)))
        .collect();
    assert_eq!(kills.len(), 1);
}

#[test]
fn a_launch_that_does_not_register_is_given_up() {
    let mut rig = Rig::new(1, 5);
    assert!(launched(&rig.after(9_900)).is_empty());
    assert_eq!(launched(&rig.after(100)).len(), 2);
}

#[test]
fn replacements_back_off_and_progress_resets_that() {
    let mut rig = Rig::new(1, 5);
    let (mut conn, _) = rig.register(SINK, 1);
    for epoch in 2..5 {
        let out = rig.give(Input::ConnClosed { conn });
        assert_eq!(launched(&out).len(), usize::from(epoch == 2));
        if epoch > 2 {
            assert!(launched(&rig.after(99 * (1 << (epoch - 3)))).is_empty());
            assert_eq!(launched(&rig.after(1 << (epoch - 3))).len(), 1);
        }
        conn = rig.register(SINK, epoch).0;
    }
    rig.say(
        conn,
        ToLeader::Beat(Report {
            tuples_in: 1,
            ..Report::default()
        }),
    );
    assert_eq!(
        launched(&rig.give(Input::ConnClosed { conn })).len(),
        1,
        "at once after progress"
    );
}

#[test]
fn an_operator_that_fails_at_the_same_tuple_fails_the_job_and_kills_do_not() {
    let mut rig = Rig::new(1, 2);
    for epoch in 1..=20 {
        let (conn, _) = rig.register(SINK, epoch);
        let out = rig.give(Input::Exited {
            task: SINK,
            epoch: Epoch(epoch),
            exit: Exit::Killed,
            stderr: vec![],
        });
        assert_eq!(failed(&out), None);
        rig.give(Input::ConnClosed { conn });
        rig.after(2000);
    }
    let mut whys = vec![];
    for epoch in 21..=23 {
        let (conn, _) = rig.register(SINK, epoch);
        let failure = Failure {
            what: "boom".into(),
            key: Some("f:7".into()),
            unit: None,
            stderr: vec!["line 3".into()],
            fatal: false,
        };
        let out = rig.say(conn, ToLeader::Failed(failure));
        whys.push(failed(&out).map(String::from));
        // The exit's code is the same failure again.
        rig.give(Input::Exited {
            task: SINK,
            epoch: Epoch(epoch),
            exit: Exit::Code(1),
            stderr: vec![],
        });
        rig.after(2000);
    }
    assert_eq!(whys[..2], [None, None]);
    let why = whys[2].clone().expect("the third is one too many");
    assert!(
        ["s1t0", "identity", "f:7", "boom", "line 3", "3 times"]
            .iter()
            .all(|w| why.contains(w)),
        "{why}"
    );
}

#[test]
fn other_tuples_or_progress_begin_the_count_anew() {
    let mut rig = Rig::new(1, 1);
    for epoch in 1..=10 {
        let (conn, _) = rig.register(SINK, epoch);
        // By turns another key, and none at all but progress before it.
        if epoch % 2 == 0 {
            rig.say(
                conn,
                ToLeader::Beat(Report {
                    tuples_in: epoch,
                    ..Report::default()
                }),
            );
        }
        let key = (epoch % 2 == 1).then(|| format!("f:{epoch}"));
        let out = rig.say(
            conn,
            ToLeader::Failed(Failure {
                what: "boom".into(),
                key,
                unit: None,
                stderr: vec![],
                fatal: false,
            }),
        );
        assert_eq!(failed(&out), None, "{epoch}");
        rig.after(2000);
    }
}

#[test]
fn a_fatal_failure_and_endless_bad_launches_fail_the_job() {
    let mut rig = Rig::new(1, 5);
    let (conn, _) = rig.register(SINK, 1);
    let out = rig.say(
        conn,
        ToLeader::Failed(Failure {
            what: "no such column".into(),
            key: None,
            unit: None,
            stderr: vec![],
            fatal: true,
        }),
    );
    assert!(failed(&out).unwrap().contains("no such column"));

    let mut rig = Rig::new(1, 5);
    let mut why = None;
    for epoch in 1..=8 {
        let exit = Exit::Code(127);
        let out = rig.give(Input::Exited {
            task: SINK,
            epoch: Epoch(epoch),
            exit,
            stderr: vec!["worker: not found".into()],
        });
        why = failed(&out).map(String::from);
        rig.after(2000);
    }
    let why = why.expect("the eighth");
    assert!(
        why.contains("could not be started 8 times") && why.contains("worker: not found"),
        "{why}"
    );
}

#[test]
fn a_failed_node_is_left_by_all_its_tasks_and_not_used_until_it_is_back() {
    let mut rig = Rig::new(2, 5);
    rig.register(SINK, 1);
    rig.register(SOURCE, 1);
    let bad = rig.job.plan().nodes[&SINK].clone();
    let out = rig.give(Input::NodeFailed(bad.clone()));
    assert!(launched(&out).iter().all(|l| l.2 != bad.as_str()) && launched(&out).len() == 1);
    assert!(rig.give(Input::NodeFailed(bad.clone())).is_empty());
    rig.give(Input::NodeAlive(bad.clone()));
    let (conn, _) = rig.register(SINK, 2);
    let out = rig.give(Input::ConnClosed { conn });
    assert!(launched(&out).is_empty());
    assert_eq!(launched(&rig.after(100))[0].2, bad.as_str());
}

/// The leader's own memberd may be dead, so that nobody says which nodes are.
#[test]
fn nodes_that_do_not_answer_are_left_alone_although_the_task_failed_everywhere() {
    let mut rig = Rig::new(4, 3);
    let dead = |node: &str| node == "n1" || node == "n2";
    let (mut epoch, mut ran) = (1, vec![]);
    for _ in 0..20 {
        let node = rig.job.task(SINK).unwrap().node.to_string();
        if dead(&node) {
            rig.give(Input::LaunchFailed {
                task: SINK,
                epoch: Epoch(epoch),
                why: "no answer".into(),
            });
        } else {
            let (conn, _) = rig.register(SINK, epoch);
            rig.give(Input::ConnClosed { conn });
            ran.push(node);
        }
        rig.after(2500);
        epoch = rig.job.task(SINK).unwrap().epoch.0;
    }
    assert!(
        ran.len() >= 14,
        "it was tried in vain too often: it ran on {ran:?}"
    );
}

#[test]
fn without_any_node_the_job_waits_and_then_fails() {
    let mut rig = Rig::new(1, 5);
    rig.register(SINK, 1);
    let node = names(1).remove(0);
    assert!(launched(&rig.give(Input::NodeFailed(node.clone()))).is_empty());
    assert!((0..290).all(|_| failed(&rig.after(100)).is_none()));
    let ends = (0..20).any(|_| failed(&rig.after(100)).is_some());
    assert!(ends);

    let mut rig = Rig::new(1, 5);
    rig.register(SINK, 1);
    rig.give(Input::NodeFailed(node.clone()));
    (0..100).for_each(|_| drop(rig.after(100)));
    rig.give(Input::NodeAlive(node));
    assert_eq!(launched(&rig.after(100)).len(), 2);
}

#[test]
fn a_done_task_is_restarted_only_while_its_input_may_need_it() {
    let mut rig = Rig::new(1, 5);
    let (sink, _) = rig.register(SINK, 1);
    let (source, _) = rig.register(SOURCE, 1);
    rig.done(sink);
    rig.give(Input::ConnClosed { conn: sink });
    let mut out = vec![];
    for _ in 0..10 {
        rig.say(source, ToLeader::Beat(Report::default()));
        out.extend(rig.after(150));
    }
    assert_eq!(
        launched(&out).len(),
        1,
        "its sender has not been acknowledged: {out:?}"
    );
    let (sink, _) = rig.register(SINK, 2);
    rig.done(sink);
    assert!(rig.done(source).contains(&Effect::Done));

    let mut rig = Rig::new(1, 5);
    let (sink, _) = rig.register(SINK, 1);
    let (source, _) = rig.register(SOURCE, 1);
    rig.done(source);
    rig.give(Input::ConnClosed { conn: source });
    let mut out = vec![];
    for _ in 0..10 {
        rig.say(sink, ToLeader::Beat(Report::default()));
        out.extend(rig.after(500));
    }
    assert!(launched(&out).is_empty(), "{out:?}");
    assert!(rig.done(sink).contains(&Effect::Done));
}

/// With exactly-once the receiver's log says that the sender has ended.
#[test]
fn a_done_sender_comes_back_for_a_receiver_only_without_a_log() {
    const SOURCE: TaskId = TaskId { stage: 0, index: 0 };
    for exactly_once in [true, false] {
        let plan = Plan {
            exactly_once,
            ..sample(1, 1, 1, &names(2))
        };
        let mut rig = Rig::of(plan, 2, 3);
        rig.register(SINK, 1);
        let (source, _) = rig.register(SOURCE, 1);
        rig.done(source);
        rig.give(Input::ConnClosed { conn: source });
        let out = rig.after(1500);
        let again = launched(&out).iter().any(|(task, ..)| *task == SOURCE);
        assert_eq!(again, !exactly_once, "{out:?}");
    }
}

#[test]
fn stopping_finishes_all_and_late_comers() {
    let mut rig = Rig::new(1, 5);
    rig.register(SINK, 1);
    let out = rig.give(Input::Stop {
        why: "interrupted".into(),
    });
    assert_eq!(failed(&out), Some("interrupted"));
    assert!(out.iter().any(|e| matches!(
        e,
        Effect::Send {
            message: ToWorker::Finish,
            ..
        }
    )));
    let (_, out) = rig.register(SOURCE, 1);
    assert!(matches!(
        out[0],
        Effect::Send {
            message: ToWorker::Finish,
            ..
        }
    ));
    assert!(launched(&rig.after(60_000)).is_empty());
}
