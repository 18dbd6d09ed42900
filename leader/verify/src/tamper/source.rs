//! Order records of sources.

use super::*;
use common::ids::Creation;

pub const ROWS: &[Row<Tamper>] = &[
    (
        "cut a run out",
        |j, r| cut_out(j, r, is_run),
        &[
            "was next",
            "not read to their end",
            "was to be read",
            "cannot begin",
            "lies before",
        ],
    ),
    (
        "read a run twice",
        |j, r| put_in(j, r, is_run, |o| o),
        &["was next", "was to be read"],
    ),
    (
        "shift a run's line numbers",
        |j, r| edit_run(j, r, |run| run.first_line += 1),
        &["was next", "cannot begin"],
    ),
    (
        "count a line too many",
        |j, r| edit_run(j, r, |run| run.lines += 1),
        &["it says that", "was next", "lines in bytes"],
    ),
    (
        "begin a run late",
        |j, r| edit_run(j, r, |run| run.from += 1),
        &["was next", "cannot begin", "lies before"],
    ),
    (
        "end a slice early, or never",
        |j, r| edit_run(j, r, |run| run.last = !run.last),
        &["to be the last"],
    ),
    (
        "read another file of that name",
        |j, r| edit_run(j, r, |run| run.creation = Some(Creation(8))),
        &["another file named"],
    ),
    (
        "do not say which file was read",
        |j, r| edit_run(j, r, |run| run.creation = None),
        &["another file named"],
    ),
    (
        "read another slice",
        |j, r| edit_run(j, r, |run| run.slice += 1),
        &["where slice", "slices, not"],
    ),
    (
        "read in a later stage",
        |j, r| {
            let (task, i, _) = order(j, r, is_batch)?;
            let run = SourceRun {
                creation: None,
                slice: 0,
                from: 0,
                to: 1,
                first_line: 1,
                lines: 1,
                last: true,
                growing: false,
            };
            if let Record::Order { order, .. } = &mut log(j, task)?[i].1 {
                *order = Order::Source(run)
            }
            Some(())
        },
        &["is not a source"],
    ),
    (
        "two sources read a line, or none does",
        |j, r| {
            let plan = j.facts.plan.clone();
            let runs = j
                .logs
                .iter()
                .flat_map(|(t, log)| log.iter().enumerate().map(move |(i, (_, r))| (*t, i, r)));
            let first = runs.filter_map(|(task, i, record)| match record {
                Record::Order {
                    order: Order::Source(run),
                    ..
                } if !run.growing => {
                    let slice = &plan.sources[usize::from(task.index)][run.slice as usize];
                    // Only a shift that the slice itself allows.
                    let begins = run.first_line == slice.newlines_before + 2 && run.from > slice.start;
                    (begins && run.to > run.from + 1 && slice.start > 0).then_some((task, i))
                }
                _ => None,
            });
            let (task, i) = first.choose(r)?;
            let log = log(j, task)?;
            let Record::Order {
                order: Order::Source(run),
                ..
            } = &mut log[i].1
            else {
                return None;
            };
            let slice = run.slice;
            run.from += 1;
            // It must be that slice's first.
            let before = log[..i].iter().any(
                |(_, r)| matches!(r, Record::Order { order: Order::Source(run), .. } if run.slice == slice),
            );
            (!before).then_some(())
        },
        &["which reads what lies before"],
    ),
    (
        "a place in a growing file",
        |j, r| {
            edit_cut(
                j,
                r,
                |_, c| !c.source.growing.is_empty(),
                |c| {
                    let first = c.source.growing.first().map(|(slice, place)| (*slice, *place));
                    if let Some((slice, mut place)) = first {
                        place.at += 1;
                        c.source.growing.insert_mut(slice, place);
                    }
                },
            )
        },
        &["it says that slice"],
    ),
    (
        "a growing file that is not in the checkpoint",
        |j, r| {
            edit_cut(
                j,
                r,
                |_, c| !c.source.growing.is_empty(),
                |c| {
                    let first = c.source.growing.first().map(|(slice, _)| *slice);
                    first.map(|slice| c.source.growing.remove_mut(&slice));
                },
            )
        },
        &["it says that slice"],
    ),
    (
        "a file that grows, or not",
        |j, r| {
            edit_order(
                j,
                r,
                |o| matches!(o, Order::Source(_)),
                |o| {
                    if let Order::Source(run) = o {
                        run.growing = !run.growing
                    }
                },
            )
        },
        &["in turn"],
    ),
    (
        "skip lines of a growing file",
        |j, r| {
            edit_order(
                j,
                r,
                |o| matches!(o, Order::Source(run) if run.growing),
                |o| {
                    if let Order::Source(run) = o {
                        (run.to, run.lines) = (run.to + 1, run.lines + 1)
                    }
                },
            )
        },
        &["was next", "it says that"],
    ),
];
