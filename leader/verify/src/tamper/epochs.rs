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
        &["where it was to go on"],
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
        "begin before what is done",
        |j, r| {
            let (task, i) = restart(j, r)?;
            if let Record::Began { pos, .. } = &mut log(j, task)?[i].1 {
                *pos = pos.checked_sub(1)?
            }
            Some(())
        },
        &["where it was to go on"],
    ),
    (
        "drop a production",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Production { .. }))?;
            (!j.has_voids(task)).then_some(())?;
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
        &["was at work"],
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
        "a production whose order record is not there",
        |j, r| {
            let (task, i, pos) = order(j, r, |o| *o == Order::Finish)?;
            let log = log(j, task)?;
            log.truncate(i);
            matches!(log.last()?.1, Record::Production { pos: p, .. } if p == pos).then_some(())
        },
        &["the order records end"],
    ),
    (
        "a production that nobody asked for",
        |j, r| {
            let job = j.clone();
            let (task, i) = pick(j, r, |t, _| keeps(&job, t) == Keeps::Order)?;
            let record = Record::Production {
                pos: 1,
                output: 0,
                start: 0,
                end: 1,
                tuples: 1,
                born_us: 0,
                payload: vec![].into(),
            };
            let log = log(j, task)?;
            log.insert(i + 1, (log[i].0, record));
            Some(())
        },
        &["can make it again"],
    ),
    (
        "drop consumed tuples",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Tuples { .. }))?;
            log(j, task)?.remove(i);
            Some(())
        },
        &["are not kept"],
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
        "tuples of another position",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Tuples { .. }))?;
            if let Record::Tuples { pos, .. } = &mut log(j, task)?[i].1 {
                *pos += 1_000_000
            }
            Some(())
        },
        &["was at work"],
    ),
    (
        "tuples of an end",
        |j, r| {
            let job = j.clone();
            let hit = |t, r: &Record| {
                keeps(&job, t) == Keeps::Inputs
                    && matches!(
                        r,
                        Record::Order {
                            order: Order::InputEnd { .. },
                            ..
                        }
                    )
            };
            let (task, i) = pick(j, r, hit)?;
            let log = log(j, task)?;
            let (Record::Order { pos, .. }, epoch) = (&log[i].1, log[i].0) else {
                return None;
            };
            let record = Record::Tuples {
                pos: *pos,
                frame: vec![].into(),
            };
            log.insert(i, (epoch, record));
            Some(())
        },
        &["consumed none"],
    ),
    (
        "tuples whose order record is not there",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Tuples { .. }))?;
            log(j, task)?.truncate(i + 1);
            Some(())
        },
        &["which has no order record"],
    ),
    (
        "tuples that upstream has",
        |j, r| {
            let job = j.clone();
            let (task, i) = pick(j, r, |t, _| keeps(&job, t) == Keeps::Order)?;
            let record = Record::Tuples {
                pos: 1,
                frame: vec![].into(),
            };
            let log = log(j, task)?;
            log.insert(i + 1, (log[i].0, record));
            Some(())
        },
        &["upstream has it"],
    ),
];
