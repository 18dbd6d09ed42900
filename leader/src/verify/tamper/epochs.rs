//! Who wrote what; productions and kept tuples.

use super::*;

pub const ROWS: &[Row<Tamper>] = &[
    (
        "an epoch again",
        |j, r| {
            let (task, i) = restart(j, r)?;
            let log = log(j, task)?;
            let before = log[..i].iter().rev().find_map(|(_, r)| {
                if let Record::Began { epoch, .. } = r {
                    Some(*epoch)
                } else {
                    None
                }
            })?;
            if let Record::Began { epoch, .. } = &mut log[i].1 {
                *epoch = before
            }
            Some(())
        },
        &["began after epoch"],
    ),
    (
        "an epoch that was never started",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Began { .. }))?;
            let most = j.facts.launched[&task];
            if let Record::Began { epoch, .. } = &mut log(j, task)?[i].1 {
                epoch.0 = most.0 + 1
            }
            Some(())
        },
        &["newest that was started"],
    ),
    (
        "another epoch than wrote",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Began { .. }))?;
            if let Record::Began { epoch, .. } = &mut log(j, task)?[i].1 {
                epoch.0 += 1
            }
            Some(())
        },
        &["was appended by epoch"],
    ),
    (
        "begin at another place",
        |j, r| {
            let (task, i) = restart(j, r)?;
            if let Record::Began { pos, .. } = &mut log(j, task)?[i].1 {
                *pos += 1
            }
            Some(())
        },
        &["the log was at"],
    ),
    (
        "drop a beginning",
        |j, r| {
            let (task, i) = restart(j, r)?;
            log(j, task)?.remove(i);
            Some(())
        },
        &["was appended by epoch"],
    ),
    (
        "no beginning at all",
        |j, r| {
            let (task, _) = pick(j, r, |_, _| true)?;
            log(j, task)?.retain(|(_, r)| !matches!(r, Record::Began { .. }));
            Some(())
        },
        &["no process had begun"],
    ),
    (
        "a zombie writes behind its successor",
        |j, r| {
            let (task, i) = restart(j, r)?;
            let log = log(j, task)?;
            log[i + 1].0 = log[0].0;
            Some(())
        },
        &["was appended by epoch"],
    ),
    (
        "a log of a task that nobody started",
        |j, r| {
            let (task, _) = pick(j, r, |_, _| true)?;
            j.facts.launched.remove(&task).map(drop)
        },
        &["newest that was started"],
    ),
    (
        "drop a production",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Production { .. }))?;
            log(j, task)?.remove(i);
            Some(())
        },
        &["was next", "were kept"],
    ),
    (
        "a production twice",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Production { .. }))?;
            let log = log(j, task)?;
            log.insert(i, log[i].clone());
            Some(())
        },
        &["was next"],
    ),
    (
        "a production of another position",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Production { .. }))?;
            if let Record::Production { pos, .. } = &mut log(j, task)?[i].1 {
                *pos += 1_000_000
            }
            Some(())
        },
        &["after what position", "the order records end"],
    ),
    (
        "a production of no output",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Production { .. }))?;
            if let Record::Production { output, .. } = &mut log(j, task)?[i].1 {
                *output = 99
            }
            Some(())
        },
        &["outputs, not 99"],
    ),
    (
        "tuples twice",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Tuples { .. }))?;
            let log = log(j, task)?;
            log.insert(i, log[i].clone());
            Some(())
        },
        &["kept twice"],
    ),
    (
        "tuples of no batch",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Tuples { .. }))?;
            if let Record::Tuples { pos, .. } = &mut log(j, task)?[i].1 {
                *pos += 1_000_000
            }
            Some(())
        },
        &["no order record of a batch"],
    ),
];
