//! How a job stands, by its journal, and when what it keeps may go. Pure: what HyDFS holds is handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::clock::Time;
use common::ids::{Creation, JobName};
use protocol::control::OpCode;

use crate::record::{Entry, Record};
use crate::state::{Ended, JobState};

/// Times are wall clock, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its leader ended before the plan was stored, or starts just now.
    NeverBegan,
    /// It runs, or was interrupted: it can be taken up.
    Open,
    /// It can be taken up.
    Failed {
        at_us: u64,
    },
    Done {
        at_us: u64,
    },
    /// What it keeps is being removed.
    Forgotten,
}

impl Standing {
    pub fn of(journal: &[Record]) -> Self {
        if journal.iter().any(|record| record.entry == Entry::Forgotten) {
            return Self::Forgotten;
        }
        let Some(state) = JobState::of(journal) else {
            return Self::NeverBegan;
        };
        let at_us = state.life.last_us;
        match state.ended {
            _ if state.forgotten => Self::Forgotten,
            None => Self::Open,
            Some(Ended { ok: true, .. }) => Self::Done { at_us },
            Some(Ended { ok: false, .. }) => Self::Failed { at_us },
        }
    }

    /// Whether it ended, well or not, before that time, and nobody has taken it up since.
    pub fn ended_before(self, us: u64) -> bool {
        match self {
            Self::Done { at_us } | Self::Failed { at_us } => at_us < us,
            Self::Forgotten => true,
            Self::NeverBegan | Self::Open => false,
        }
    }

    /// Whether nothing that anybody can still want goes with what it keeps, but for looking at it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done { .. } | Self::Forgotten)
    }
}

/// The files in HyDFS of the foreign operators that a job uses.
pub fn operators(journal: &[Record]) -> BTreeSet<String> {
    let plan = JobState::of(journal).map(|state| state.plan);
    let stages = plan.into_iter().flat_map(|plan| plan.stages);
    let ops = stages.filter_map(|stage| stage.op);
    ops.filter_map(|op| match op.code {
        OpCode::Foreign { hydfs_name, .. } => Some(hydfs_name),
        OpCode::Builtin => None,
    })
    .collect()
}

/// What a look at HyDFS has found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub jobs: Vec<FoundJob>,
    /// Files under `ops/`.
    pub operators: BTreeSet<(String, Creation)>,
}

#[derive(Debug, Clone)]
pub struct FoundJob {
    pub job: JobName,
    /// Of its journal.
    pub creation: Creation,
    /// `None`: its journal cannot be read now.
    pub standing: Option<Standing>,
    pub operators: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Forget(JobName),
    /// Whoever does it looks once more for jobs that name it, and puts it back if there is one.
    RemoveOperator(String, Creation),
}

/// Decides what goes after [`Tidying::keep`], over many looks at HyDFS.
///
/// A job's own end says since when it may go. For an operator, and for a journal without a plan, HyDFS has no time: they go when
/// every look of that long has found them so.
#[derive(Debug)]
pub struct Tidying {
    keep: Duration,
    /// Since when no job names them.
    unnamed: BTreeMap<(String, Creation), Time>,
    /// Since when their journals hold no plan.
    planless: BTreeMap<(JobName, Creation), Time>,
}

impl Tidying {
    pub fn new(keep: Duration) -> Self {
        Self {
            keep,
            unnamed: BTreeMap::new(),
            planless: BTreeMap::new(),
        }
    }

    /// `wall_us`: by the clock that journals are written by.
    pub fn handle(&mut self, now: Time, wall_us: u64, found: &Found) -> Vec<Step> {
        let before_us = wall_us.saturating_sub(self.keep.as_micros() as u64);
        let planless = found
            .jobs
            .iter()
            .filter(|job| job.standing == Some(Standing::NeverBegan));
        let planless = planless.map(|job| (job.job.clone(), job.creation)).collect();
        note(&mut self.planless, planless, now);
        // Where a journal does not say what its job needs, there is none.
        let unnamed = unnamed(found).unwrap_or_default();
        note(&mut self.unnamed, unnamed, now);

        let is_due = |since: &Time| now.since(*since) >= self.keep;
        let ended = found.jobs.iter().filter(|job| {
            let ended = job
                .standing
                .is_some_and(|standing| standing.ended_before(before_us));
            ended
                || self
                    .planless
                    .get(&(job.job.clone(), job.creation))
                    .is_some_and(is_due)
        });
        let ended = ended.map(|job| Step::Forget(job.job.clone()));
        let unnamed = self.unnamed.iter().filter(|(_, since)| is_due(since));
        let unnamed = unnamed.map(|((file, creation), _)| Step::RemoveOperator(file.clone(), *creation));
        ended.chain(unnamed).collect()
    }
}

/// Operators that no job names; `None`: some job's journal does not say.
pub fn unnamed(found: &Found) -> Option<BTreeSet<(String, Creation)>> {
    if found.jobs.iter().any(|job| job.standing.is_none()) {
        return None;
    }
    let named = |file: &String| found.jobs.iter().any(|job| job.operators.contains(file));
    let operators = found.operators.iter().filter(|(file, _)| !named(file));
    Some(operators.cloned().collect())
}

/// Keeps the times of those that still are so, and begins one for the others.
fn note<K: Ord + Clone>(since: &mut BTreeMap<K, Time>, are: BTreeSet<K>, now: Time) {
    since.retain(|key, _| are.contains(key));
    for key in are {
        since.entry(key).or_insert(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::sample::sample;
    use crate::record::{Settings, VERSION};
    use common::ids::{Epoch, NodeName};

    const DAY: u64 = 24 * 3600 * 1_000_000;

    fn journal(entries: Vec<Entry>) -> Vec<Record> {
        let record = |(i, entry)| Record {
            v: VERSION,
            at_us: (i as u64 + 1) * 10,
            entry,
        };
        entries.into_iter().enumerate().map(record).collect()
    }

    fn plan() -> Entry {
        Entry::Plan(Box::new(sample(1, 1, 1, &[NodeName::new("n1").unwrap()])))
    }

    fn end(ok: bool) -> Entry {
        Entry::End {
            ok,
            why: String::new(),
        }
    }

    #[test]
    fn a_journal_says_how_its_job_stands() {
        let resumed = Entry::Resumed {
            base: Epoch(1000),
            node: NodeName::new("n1").unwrap(),
            pid: 1,
            settings: Settings {
                max_restarts: 1,
                op_timeout_ms: 1,
                poison: None,
                standbys: None,
            },
        };
        let of = |entries| Standing::of(&journal(entries));
        assert_eq!(of(vec![]), Standing::NeverBegan);
        assert_eq!(of(vec![plan()]), Standing::Open);
        assert_eq!(of(vec![plan(), end(false)]), Standing::Failed { at_us: 20 });
        assert_eq!(of(vec![plan(), end(false), resumed.clone()]), Standing::Open);
        assert_eq!(
            of(vec![plan(), end(false), resumed, end(true)]),
            Standing::Done { at_us: 40 }
        );
        assert_eq!(of(vec![plan(), end(true), Entry::Forgotten]), Standing::Forgotten);
        assert_eq!(of(vec![Entry::Forgotten]), Standing::Forgotten);
    }

    fn job(name: &str, standing: Option<Standing>, operators: &[&str]) -> FoundJob {
        FoundJob {
            job: JobName::new(name).unwrap(),
            creation: Creation(1),
            standing,
            operators: operators.iter().map(|o| o.to_string()).collect(),
        }
    }

    fn found(jobs: Vec<FoundJob>, operators: &[&str]) -> Found {
        Found {
            jobs,
            operators: operators.iter().map(|o| (o.to_string(), Creation(7))).collect(),
        }
    }

    fn forget(name: &str) -> Step {
        Step::Forget(JobName::new(name).unwrap())
    }

    #[test]
    fn jobs_go_so_long_after_their_end_and_open_ones_never() {
        let mut tidying = Tidying::new(Duration::from_micros(7 * DAY));
        let jobs = vec![
            job("done", Some(Standing::Done { at_us: DAY }), &[]),
            job("failed", Some(Standing::Failed { at_us: 2 * DAY }), &[]),
            job("open", Some(Standing::Open), &[]),
            job("damaged", None, &[]),
            job("half", Some(Standing::Forgotten), &[]),
        ];
        let found = found(jobs, &[]);
        let at = |tidying: &mut Tidying, day: u64| tidying.handle(Time(day * DAY), day * DAY, &found);
        assert_eq!(at(&mut tidying, 8), [forget("half")]);
        assert_eq!(at(&mut tidying, 9), [forget("done"), forget("half")]);
        assert_eq!(
            at(&mut tidying, 99),
            [forget("done"), forget("failed"), forget("half")]
        );
        // A clock that was set back makes nothing go.
        assert_eq!(tidying.handle(Time(100 * DAY), 0, &found), [forget("half")]);
    }

    #[test]
    fn an_operator_goes_when_for_so_long_no_job_has_named_it() {
        let mut tidying = Tidying::new(Duration::from_micros(7 * DAY));
        let mut at = |day: u64, jobs: Vec<FoundJob>| {
            tidying.handle(Time(day * DAY), 0, &found(jobs, &["ops/a", "ops/b"]))
        };
        let open = |operators: &[&str]| vec![job("j", Some(Standing::Open), operators)];
        let gone = |file: &str| Step::RemoveOperator(file.into(), Creation(7));
        assert_eq!(at(0, open(&["ops/a"])), []);
        assert_eq!(at(7, open(&["ops/a"])), [gone("ops/b")]);
        // Named in between, it begins again; and so it does where a journal does not say.
        assert_eq!(at(8, open(&["ops/b"])), []);
        assert_eq!(at(9, open(&[])), []);
        assert_eq!(at(15, open(&[])), [gone("ops/a")]);
        assert_eq!(at(16, vec![job("damaged", None, &[])]), []);
        assert_eq!(at(17, open(&[])), []);
        assert_eq!(at(24, open(&[])), [gone("ops/a"), gone("ops/b")]);
    }

    #[test]
    fn a_journal_without_a_plan_goes_when_it_has_stayed_so() {
        let mut tidying = Tidying::new(Duration::from_micros(7 * DAY));
        let mut at = |day: u64, creation: u64| {
            let mut planless = job("j", Some(Standing::NeverBegan), &[]);
            planless.creation = Creation(creation);
            tidying.handle(Time(day * DAY), 99 * DAY, &found(vec![planless], &[]))
        };
        assert_eq!(at(0, 1), []);
        // Another journal of that name is another job's.
        assert_eq!(at(7, 2), []);
        assert_eq!(at(14, 2), [forget("j")]);
    }
}
