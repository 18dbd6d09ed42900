//! New files, the end of following, tuples set aside, and jobs taken up.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use common::clock::Time;
use common::ids::{Creation, Epoch, TaskId};
use protocol::control::{Failure, Report, TaskPlan, ToLeader, ToWorker, Unit};
use protocol::task_log::SourcePos;

use super::{Rig, SINK, SOURCE, failed, launched, names, refused};
use crate::machine::{Config, ConnId, Effect, Input, Job, JobEvent, Resumed};
use crate::plan::sample::sample;
use crate::plan::{Change, OPEN, SourceFile};
use crate::record::{Counts, Ticket};

fn stored(out: &[Effect]) -> Vec<(Ticket, Change)> {
    let stores = out.iter().filter_map(|e| match e {
        Effect::Store { ticket, change } => Some((*ticket, change.clone())),
        _ => None,
    });
    stores.collect()
}

fn said(out: &[Effect], to: ConnId) -> Vec<ToWorker> {
    let sent = out.iter().filter_map(|e| match e {
        Effect::Send { conn, message } if *conn == to => Some(message.clone()),
        _ => None,
    });
    sent.collect()
}

fn plan_of(out: &[Effect]) -> TaskPlan {
    let plan = out.iter().find_map(|e| match e {
        Effect::Send {
            message: ToWorker::Plan(plan),
            ..
        } => Some(plan.as_ref().clone()),
        _ => None,
    });
    plan.expect("a plan")
}

fn following(sources: u16) -> Rig {
    let mut plan = sample(1, 1, sources, &names(1));
    plan.follow = true;
    Rig::of(plan, 1, 5)
}

fn file(name: &str, creation: u64) -> SourceFile {
    SourceFile {
        name: name.into(),
        creation: Creation(creation),
    }
}

fn files(names: &[&str]) -> Input {
    Input::Files(names.iter().map(|n| file(n, 7)).collect())
}

#[test]
fn new_files_go_to_whom_has_the_least_once_they_are_stored_and_stay_there() {
    let mut rig = following(2);
    let (first, _) = rig.register(TaskId::new(0, 0), 1);
    let out = rig.give(files(&["f0", "f1", "a", "b", "c"]));
    let changes = stored(&out);
    let of = |change: &Change| match change {
        Change::Slices { task, slices } => {
            assert!(slices.iter().all(|s| (s.start, s.end) == (0, OPEN)));
            (
                task.index,
                slices.iter().map(|s| s.file.clone()).collect::<Vec<_>>(),
            )
        }
        other => panic!("{other:?}"),
    };
    let shares: Vec<_> = changes.iter().map(|(_, change)| of(change)).collect();
    assert_eq!(
        shares,
        [(0, vec!["a".into(), "c".into()]), (1, vec!["b".to_string()])]
    );
    assert!(said(&out, first).is_empty(), "nobody hears of what is not stored");
    assert!(stored(&rig.give(files(&["a", "b", "c"]))).is_empty(), "known");

    // One comes up before it is stored: it is told later. The other finds it in its plan.
    let (again, out) = rig.register(TaskId::new(0, 1), 1);
    assert_eq!(plan_of(&out).slices.len(), 1);
    let out = rig.give(Input::Stored { ticket: changes[1].0 });
    assert!(matches!(&said(&out, again)[..], [ToWorker::Slices(s)] if s[0].file == "b"));
    rig.give(Input::Stored { ticket: changes[0].0 });
    rig.give(Input::ConnClosed { conn: first });
    let (_, out) = rig.register(TaskId::new(0, 0), 2);
    let list: Vec<String> = plan_of(&out).slices.into_iter().map(|s| s.file).collect();
    assert_eq!(list, ["f0", "a", "c"]);
}

#[test]
fn a_file_made_anew_under_its_name_is_another_file_and_said_to_be() {
    let mut rig = following(1);
    let (conn, _) = rig.register(SOURCE, 1);
    let out = rig.give(Input::Files(vec![file("f0", 8)]));
    let [(ticket, Change::Slices { slices, .. })] = &stored(&out)[..] else {
        panic!("{out:?}")
    };
    assert_eq!((slices[0].label(), slices[0].start), ("f0#2", 0));
    let out = rig.give(Input::Stored { ticket: *ticket });
    assert_eq!(said(&out, conn), [ToWorker::Slices(slices.clone())]);
    let label = "f0#2".to_owned();
    assert!(out.contains(&Effect::Event(JobEvent::FileReplaced {
        task: SOURCE,
        file: "f0".into(),
        label
    })));
    assert!(
        stored(&rig.give(Input::Files(vec![file("f0", 8)]))).is_empty(),
        "known"
    );
}

#[test]
fn draining_is_stored_first_told_to_all_sources_and_in_all_later_plans() {
    let mut rig = following(1);
    let (conn, out) = rig.register(SOURCE, 1);
    let plan = plan_of(&out);
    assert!(plan.follow && !plan.drain);
    let out = rig.give(Input::Drain);
    let [(ticket, Change::Drain)] = stored(&out)[..] else {
        panic!("{out:?}")
    };
    assert!(said(&out, conn).is_empty() && rig.job.is_draining());
    assert!(rig.give(Input::Drain).is_empty() && rig.give(files(&["late"])).is_empty());
    let out = rig.give(Input::Stored { ticket });
    assert_eq!(said(&out, conn), [ToWorker::Drain]);
    rig.give(Input::ConnClosed { conn });
    let (conn, out) = rig.register(SOURCE, 2);
    assert!(plan_of(&out).drain);
    rig.done(conn);
    let (conn, _) = rig.register(SINK, 1);
    assert!(rig.done(conn).contains(&Effect::Done));
}

#[test]
fn a_job_that_does_not_follow_takes_no_files_and_does_not_drain() {
    let mut rig = Rig::new(1, 5);
    assert!(rig.give(files(&["a"])).is_empty() && rig.give(Input::Drain).is_empty());
}

const UNIT: Unit = Unit {
    from: SOURCE,
    number: 7,
};

fn poisoned(max_restarts: u32) -> Rig {
    let mut plan = sample(1, 1, 1, &names(1));
    plan.poison = Some("out.poison".into());
    Rig::of(plan, 1, max_restarts)
}

fn failure(unit: Option<Unit>) -> ToLeader {
    ToLeader::Failed(Failure {
        what: "boom".into(),
        key: unit.map(|u| format!("f:{}", u.number)),
        unit,
        stderr: vec![],
        fatal: false,
    })
}

impl Rig {
    /// The sink's next process comes and fails; its plan, and what came of it.
    fn fails(&mut self, epoch: u64, unit: Option<Unit>) -> (TaskPlan, Vec<Effect>) {
        let (conn, out) = self.register(SINK, epoch);
        let failed = self.say(conn, failure(unit));
        (plan_of(&out), failed)
    }
}

#[test]
fn a_tuple_is_set_aside_when_that_is_stored_and_the_job_goes_on() {
    let mut rig = poisoned(1);
    let (plan, _) = rig.fails(1, Some(UNIT));
    assert_eq!((plan.poison.as_deref(), plan.skip.len()), (Some("out.poison"), 0));
    let (_, out) = rig.fails(2, Some(UNIT));
    let changes = stored(&out);
    let [(ticket, Change::Skip { task, unit, .. })] = &changes[..] else {
        panic!("{out:?}")
    };
    assert_eq!((*task, *unit, failed(&out)), (SINK, UNIT, None));
    assert!(launched(&out).is_empty() && launched(&rig.after(3000)).is_empty());
    let out = rig.give(Input::Stored { ticket: *ticket });
    assert!(matches!(&out[0], Effect::Event(JobEvent::Poison { key: Some(key), .. }) if key == "f:7"));
    assert_eq!(launched(&out), [(SINK, 3, "n1")]);
    assert_eq!(rig.job.poisoned(), 1);
    // The count begins anew for the next; the skip list stays.
    let other = Unit { number: 8, ..UNIT };
    let (plan, out) = rig.fails(3, Some(other));
    assert_eq!(plan.skip, [UNIT]);
    assert!(stored(&out).is_empty() && failed(&out).is_none());
    let (_, out) = rig.fails(4, Some(other));
    assert_eq!(stored(&out).len(), 1);
    // One that fails although it is set aside is beyond help.
    let ticket = stored(&out)[0].0;
    rig.give(Input::Stored { ticket });
    rig.fails(5, Some(UNIT));
    rig.after(3000);
    let (_, out) = rig.fails(6, Some(UNIT));
    assert!(failed(&out).is_some(), "{out:?}");
}

#[test]
fn a_failure_without_a_name_makes_the_next_processes_careful() {
    let mut rig = poisoned(0);
    let (plan, out) = rig.fails(1, None);
    assert!(
        !plan.careful && failed(&out).is_none(),
        "it may not have been able to say"
    );
    let (plan, out) = rig.fails(2, Some(UNIT));
    assert!(plan.careful);
    let ticket = stored(&out)[0].0;
    rig.give(Input::Stored { ticket });
    let (conn, out) = rig.register(SINK, 3);
    assert!(!plan_of(&out).careful, "the tuple is out of the way");
    rig.say(conn, failure(None));
    rig.after(3000);
    let (conn, out) = rig.register(SINK, 4);
    assert!(plan_of(&out).careful);
    // A kill after some progress: the operator had digested it.
    rig.say(
        conn,
        ToLeader::Beat(Report {
            tuples_in: 9,
            ..Report::default()
        }),
    );
    rig.give(Input::ConnClosed { conn });
    rig.after(3000);
    assert!(!plan_of(&rig.register(SINK, 5).1).careful);
}

#[test]
fn one_that_never_says_which_tuple_fails_the_job_in_the_end() {
    let mut rig = poisoned(2);
    let end = (1..20).find_map(|epoch| {
        let (_, out) = rig.fails(epoch, None);
        rig.after(3000);
        failed(&out).map(|why| (epoch, why.to_owned()))
    });
    let (epoch, why) = end.expect("an end");
    assert!(epoch <= 5 && why.contains("boom"), "{epoch} {why}");
}

#[test]
fn without_exactly_once_a_new_sender_makes_the_numbers_of_the_old_one_meaningless() {
    let mut plan = sample(1, 1, 1, &names(1));
    plan.exactly_once = false;
    plan.skips.insert(SINK, vec![UNIT]);
    plan.poison = Some("out.poison".into());
    let mut rig = Rig::of(plan, 1, 5);
    assert!(plan_of(&rig.register(SINK, 1).1).skip.is_empty());
}

#[test]
fn without_exactly_once_a_source_goes_on_from_what_has_arrived() {
    let mut plan = sample(1, 1, 1, &names(1));
    plan.exactly_once = false;
    let mut rig = Rig::of(plan, 1, 5);
    let (conn, out) = rig.register(SOURCE, 1);
    assert_eq!(plan_of(&out).resume_from, None);
    let place = SourcePos {
        slice: 1,
        ..SourcePos::default()
    };
    rig.say(
        conn,
        ToLeader::Beat(Report {
            arrived: Some(place.clone()),
            ..Report::default()
        }),
    );
    rig.give(Input::ConnClosed { conn });
    assert_eq!(plan_of(&rig.register(SOURCE, 2).1).resume_from, Some(place));
}

fn taken_up(done: &[TaskId]) -> (Rig, Vec<Effect>) {
    let resumed = Resumed {
        plan: sample(1, 1, 1, &names(1)),
        base: Epoch(1000),
        settled: BTreeMap::new(),
        done: done.iter().map(|id| (*id, Counts::default())).collect(),
        arrived: BTreeMap::new(),
        poisoned: 3,
        launched: true,
        before: 9,
        failed: None,
    };
    let config = Config {
        lease: Duration::from_secs(3),
        max_restarts: 5,
    };
    let mut rig = Rig {
        job: Job::resumed(resumed, config, names(1), BTreeSet::new()),
        now: Time::from_millis(1000),
        conns: 0,
    };
    let out = rig.give(Input::Begin);
    (rig, out)
}

#[test]
fn a_job_taken_up_starts_all_that_may_be_needed_under_epochs_of_its_own() {
    let (mut rig, out) = taken_up(&[]);
    assert_eq!(launched(&out), [(SOURCE, 1001, "n1"), (SINK, 1001, "n1")]);
    assert_eq!((rig.job.restarts(), rig.job.poisoned()), (0, 3));
    assert!(
        refused(&rig.register(SINK, 1).1) && refused(&rig.register(SINK, 1000).1),
        "processes of the leader that is gone"
    );
    let (sink, _) = rig.register(SINK, 1001);
    rig.done(sink);
    let (source, _) = rig.register(SOURCE, 1001);
    assert!(rig.done(source).contains(&Effect::Done));

    // The sink was done, but its sender may still want to hear so.
    let (mut rig, out) = taken_up(&[SINK]);
    assert_eq!(launched(&out).len(), 2);
    let (sink, _) = rig.register(SINK, 1001);
    let out = rig.done(sink);
    assert!(
        !out.iter()
            .any(|e| matches!(e, Effect::Event(JobEvent::End { .. }))),
        "known"
    );
    let (source, _) = rig.register(SOURCE, 1001);
    assert!(rig.done(source).contains(&Effect::Done));

    assert_eq!(rig.job.possible_duplicates(), 0, "exactly once");
    let (_, out) = taken_up(&[SOURCE]);
    assert_eq!(launched(&out), [(SINK, 1001, "n1")]);
    let (_, out) = taken_up(&[SOURCE, SINK]);
    assert_eq!(out, [Effect::Done]);
}
