use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;

use super::history::{History, ended, running, trimmed};
use super::*;
use job::record::Entry;
use proptest::prelude::*;

fn says(verdict: &Verdict) -> String {
    let lines: Vec<String> = verdict.findings.iter().map(Finding::to_string).collect();
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_consistent_is_accepted(seed: u64) {
        let job = ended(seed);
        let verdict = job.check();
        prop_assert!(verdict.findings.is_empty(), "{}", says(&verdict));
        prop_assert!(verdict.unchecked.is_empty());
        prop_assert_eq!(verdict.totals.tasks, job.facts.plan.tasks().count());
        prop_assert_eq!(verdict.totals.dest_bytes, job.dest.len);
        let verdict = running(seed).check();
        prop_assert!(verdict.findings.is_empty(), "{}", says(&verdict));
        for job in [ended(seed), running(seed)] {
            let verdict = trimmed(job, seed).check();
            prop_assert!(verdict.findings.is_empty(), "trimmed: {}", says(&verdict));
        }
    }

    #[test]
    fn whatever_a_log_holds_it_is_judged_without_a_panic(seed in 0u64..50, at: prop::sample::Index, bytes: Vec<u8>) {
        let job = ended(seed);
        job.check_with(|_, stored| {
            let at = at.index(stored.log.len());
            stored.log.splice(at.., bytes.iter().copied());
        });
    }
}

#[test]
fn histories_have_what_there_is_to_check() {
    use protocol::task_log::Record;
    let all: Vec<History> = (0..200).map(ended).collect();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for job in &all {
        let mut see = |what, n| *seen.entry(what).or_default() += n;
        see("restarts", job.check().totals.restarts as usize);
        see(
            "slices within files",
            job.facts
                .plan
                .sources
                .iter()
                .flatten()
                .filter(|s| s.start > 0)
                .count(),
        );
        see("follow", usize::from(job.facts.plan.follow) * 10);
        see("set aside", job.poison.as_ref().map_or(0, |p| p.total() as usize));
        see(
            "voids",
            job.logs.keys().filter(|t| job.has_voids(**t)).count() * 10,
        );
        see("trimmed", trimmed(job.clone(), 1).check().totals.trimmed);
        for (_, record) in job.logs.values().flatten() {
            match record {
                Record::Order { .. } => see("orders", 1),
                Record::Checkpoint(c) if c.snapshot.len() > 1 => see("snapshots", 1),
                Record::Checkpoint(_) => see("checkpoints", 1),
                Record::Began { .. } => see("began", 1),
                Record::Production { .. } => see("productions", 1),
                Record::Tuples { .. } => see("tuples", 1),
                Record::Base(_) => see("bases", 1),
            }
        }
    }
    assert!(seen.len() == 13 && seen.values().all(|n| *n > 100), "{seen:?}");
}

/// Each row is tried on this many histories that it applies to, and must be refuted in each.
const TRIES: usize = 40;

/// Applies `tamper` to histories; says where it was not refuted in the words that it should.
fn unseen<T>(
    rows: impl IntoIterator<Item = T>,
    apply: impl Fn(&T, u64, History) -> Option<Verdict>,
    words: impl Fn(&T) -> (&'static str, &'static [&'static str]),
) -> Vec<String> {
    let mut unseen = vec![];
    for row in rows {
        let (name, words) = words(&row);
        let mut hits = 0;
        for (seed, job) in tamper::histories() {
            let Some(verdict) = apply(&row, seed, job) else {
                continue;
            };
            let said = says(&verdict);
            if !words.iter().any(|w| said.contains(w)) {
                unseen.push(format!("`{name}`, seed {seed}: none of {words:?} in:\n{said}"));
                break;
            }
            hits += 1;
            if hits == TRIES {
                break;
            }
        }
        if hits == 0 {
            unseen.push(format!("`{name}` never applied"));
        }
    }
    unseen
}

#[test]
fn what_is_tampered_with_is_refuted() {
    let apply = |row: &&tamper::Row<tamper::Tamper>, seed, mut job: History| {
        row.1(&mut job, &mut StdRng::seed_from_u64(seed))?;
        Some(job.check())
    };
    let unseen = unseen(tamper::rows(), apply, |row| (row.0, row.2));
    assert!(unseen.is_empty(), "{}", unseen.join("\n\n"));
}

#[test]
fn what_is_tampered_with_in_the_store_is_refuted() {
    let apply = |row: &&tamper::Row<tamper::TamperBytes>, seed, job: History| {
        let mut rng = StdRng::seed_from_u64(seed);
        let victim = job.logs.keys().copied().choose(&mut rng)?;
        let mut hit = None;
        let verdict = job.check_with(|task, stored| {
            if task == victim {
                hit = row.1(stored, &mut rng);
            }
        });
        hit.map(|()| verdict)
    };
    let unseen = unseen(tamper::STORED, apply, |row| (row.0, row.2));
    assert!(unseen.is_empty(), "{}", unseen.join("\n\n"));
}

#[test]
fn what_is_not_there_is_not_proved() {
    let mut job = ended(1);
    job.logs.pop_last();
    let verdict = job.check();
    assert!(
        verdict.unchecked[0].contains("its log is not there"),
        "{verdict:?}"
    );
    // One that runs may not have begun.
    job.facts.outcome = Outcome::Open;
    job.facts.done.clear();
    assert!(job.check().unchecked.is_empty());

    // Without its destination a job is not proved; one that has just begun has none.
    let checker = Checker::new(job.facts.clone());
    assert!(checker.finish(&job.facts, None, None).unchecked.is_empty());
    job.facts.outcome = Outcome::Ended;
    let checker = Checker::new(job.facts.clone());
    let unchecked = checker.finish(&job.facts, None, None).unchecked;
    assert!(
        unchecked.iter().any(|u| u.contains("the destination")),
        "{unchecked:?}"
    );

    // The journal of one that runs may lag behind.
    let mut job = running(1);
    job.facts.launched.clear();
    let verdict = job.check();
    assert!(
        verdict.findings.is_empty() && !verdict.unchecked.is_empty(),
        "{verdict:?}"
    );

    let mut job = ended(2);
    job.dest.missing = true;
    assert_eq!((job.check().findings.len(), job.check().unchecked.len()), (0, 1));
}

#[test]
fn one_fault_is_not_told_for_ever() {
    let mut job = ended(3);
    for (_, record) in job.logs.values_mut().flatten() {
        if let protocol::task_log::Record::Order { pos, .. } = record {
            *pos *= 2;
        }
    }
    let verdict = job.check();
    assert!(
        verdict.findings.len() < (LISTED + 5) * job.logs.len(),
        "{}",
        verdict.findings.len()
    );
}

#[test]
fn the_journal_says_whether_the_job_has_ended() {
    use common::ids::{JobName, NodeName};
    let node = NodeName::new("n1").unwrap();
    let plan = job::plan::sample::sample(1, 1, 1, std::slice::from_ref(&node));
    let task = common::ids::TaskId::new(1, 0);
    let launch = |epoch| Entry::Launch {
        task,
        epoch: Epoch(epoch),
        node: node.clone(),
    };
    let end = |ok, why: &str| Entry::End { ok, why: why.into() };
    let facts = |entries: Vec<Entry>| {
        let record = |entry| Record {
            v: job::record::VERSION,
            at_us: 0,
            entry,
        };
        JobFacts::of(&entries.into_iter().map(record).collect::<Vec<_>>())
    };
    let planned = Entry::Plan(Box::new(plan));
    assert!(facts(vec![launch(1)]).is_none());
    let open = facts(vec![planned.clone(), launch(1), launch(3), launch(2)]).unwrap();
    assert_eq!((open.outcome, open.launched[&task]), (Outcome::Open, Epoch(3)));
    assert_eq!(open.plan.job, JobName::new("j").unwrap());
    let failed = facts(vec![planned.clone(), launch(1), end(false, "boom")]).unwrap();
    assert_eq!(failed.outcome, Outcome::Failed("boom".into()));
    let settings = job::record::Settings {
        max_restarts: 1,
        op_timeout_ms: 1,
        poison: Some("out.poison".into()),
        standbys: None,
    };
    let again = Entry::Resumed {
        base: Epoch(1000),
        node: node.clone(),
        pid: 1,
        settings,
    };
    let skip = job::plan::Change::Skip {
        task,
        unit: protocol::control::Unit {
            from: task,
            number: 5,
        },
        key: None,
        why: "it fails".into(),
    };
    let resumed = vec![
        planned,
        launch(1),
        end(false, "boom"),
        again,
        Entry::Change(skip),
        launch(1001),
    ];
    let open = facts(resumed.clone()).unwrap();
    assert_eq!(
        (&open.outcome, open.launched[&task]),
        (&Outcome::Open, Epoch(1001))
    );
    let of_task = open.plan.task_plan(task, Epoch(1));
    assert_eq!(
        (of_task.poison.as_deref(), of_task.skip.len()),
        (Some("out.poison"), 1)
    );
    let ended = [resumed, vec![end(true, "")]].concat();
    assert_eq!(facts(ended).unwrap().outcome, Outcome::Ended);
}

#[test]
fn numbers_have_commas() {
    assert_eq!(
        [0, 999, 1000, 1234567].map(thousands),
        ["0", "999", "1,000", "1,234,567"]
    );
}
