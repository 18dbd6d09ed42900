//! What one task says of another; the destination.

use super::*;

pub const ROWS: &[Row<Tamper>] = &[
    (
        "acknowledge what the receiver's log does not cover",
        |j, r| {
            let (task, _) = pick(j, r, |t, _| t.stage > 0)?;
            // One whose log can give nothing again knows that all it sent is safe.
            let sender = TaskId::new(task.stage - 1, 0);
            (keeps(j, sender) == Keeps::Order).then_some(())?;
            without_checkpoint(j, task)
        },
        &["a restart would lose", "which sent"],
    ),
    (
        "acknowledge a unit that was never sent",
        |j, r| {
            let plan = j.facts.plan.clone();
            edit_cut(
                j,
                r,
                |t, c| c.done && !plan.downstream(t).is_empty(),
                |c| {
                    c.emitted[0] += 1;
                    c.tuples_out += 1
                },
            )
        },
        &["a restart would lose", "which sent"],
    ),
    (
        "send more than was consumed",
        |j, r| {
            // The receiver's log is consistent in itself, and one unit short.
            let (task, i, _) = order(j, r, |o| matches!(o, Order::InputEnd { .. }))?;
            let log = log(j, task)?;
            let Record::Order {
                order: Order::InputEnd { from, .. },
                ..
            } = log[i].1
            else {
                return None;
            };
            let last = log.iter().position(
                |(_, r)| matches!(r, Record::Order { order: Order::Input { from: f, .. }, .. } if *f == from),
            )?;
            (log.iter().filter(|(_, r)| matches!(r, Record::Order { order: Order::Input { from: f, .. }, .. } if *f == from)).count() == 1).then_some(())?;
            let mut since = None;
            for (n, (_, record)) in log.iter_mut().enumerate() {
                match record {
                    Record::Order {
                        order: Order::Input { start, end, .. },
                        pos,
                    } if n == last => {
                        (*end > *start + 1).then_some(())?;
                        *end -= 1;
                        since = Some(*pos);
                    }
                    Record::Order {
                        order: Order::InputEnd { at, .. },
                        ..
                    } if n == i => *at -= 1,
                    Record::Checkpoint(cut) if since.is_some_and(|pos| cut.pos >= pos) => {
                        cut.tuples_in -= 1;
                        *cut.consumed.get_mut(&from)? -= 1;
                    }
                    _ => {}
                }
            }
            Some(())
        },
        &["a restart would lose", "which sent"],
    ),
    (
        "the leader was told of an end that is not there",
        |j, r| {
            let (task, i, _) = order(j, r, |o| *o == Order::Finish)?;
            j.facts.outcome = Outcome::Open;
            log(j, task)?.truncate(i);
            Some(())
        },
        &["the leader was told"],
    ),
    (
        "lengthen the destination",
        |j, _| {
            j.dest.len += 1;
            Some(())
        },
        &["clients' streams come to"],
    ),
    (
        "shorten the destination",
        |j, _| {
            j.dest.len = j.dest.len.checked_sub(1)?;
            Some(())
        },
        &["clients' streams come to"],
    ),
    (
        "write more than was put out",
        |j, r| {
            let task = a_last_task(j, r, |s| !s.spans.is_empty())?;
            j.dest.len += 1;
            let stream = j.dest_stream(task);
            stream.length += 1;
            stream.spans.last_mut()?.end += 1;
            Some(())
        },
        &["bytes of output to the destination"],
    ),
    (
        "lose output that counts as written",
        |j, r| {
            let task = a_last_task(j, r, |s| s.spans.last().is_some_and(|s| s.end > s.start + 1))?;
            j.dest.len -= 1;
            let stream = j.dest_stream(task);
            stream.length -= 1;
            stream.spans.last_mut()?.end -= 1;
            Some(())
        },
        &[
            "bytes as written to the destination",
            "bytes of output to the destination",
        ],
    ),
    (
        "lose a task's output",
        |j, r| {
            let task = a_last_task(j, r, |s| s.length > 0)?;
            let gone = j.dest.clients.remove(&ClientId::of(&format!("j/{task}")))?;
            j.dest.len -= gone.length;
            Some(())
        },
        &[
            "bytes as written to the destination",
            "bytes of output to the destination",
        ],
    ),
    (
        "output in the wrong order of epochs",
        |j, r| {
            let task = a_last_task(j, r, |s| s.spans.len() > 1)?;
            let spans = &mut j.dest_stream(task).spans;
            (spans[0].epoch, spans[1].epoch) = (spans[1].epoch, spans[0].epoch);
            Some(())
        },
        &["after epoch"],
    ),
    (
        "a byte of output twice",
        |j, r| {
            let task = a_last_task(j, r, |s| s.spans.len() > 1)?;
            j.dest_stream(task).spans[1].start -= 1;
            Some(())
        },
        &["was next"],
    ),
    (
        "a hole in the output",
        |j, r| {
            let task = a_last_task(j, r, |s| s.spans.len() > 1)?;
            j.dest_stream(task).spans[1].start += 1;
            Some(())
        },
        &["was next"],
    ),
    (
        "output of an epoch that was never started",
        |j, r| {
            let task = a_last_task(j, r, |s| !s.spans.is_empty())?;
            let most = j.facts.launched[&task];
            let stream = j.dest_stream(task);
            stream.epoch = Epoch(most.0 + 1);
            stream.spans.last_mut()?.epoch = stream.epoch;
            Some(())
        },
        &["wrote to the destination out, the newest"],
    ),
    (
        "output of an epoch that never fenced",
        |j, r| {
            let task = a_last_task(j, r, |s| !s.spans.is_empty())?;
            j.dest_stream(task).epoch = Epoch(0);
            Some(())
        },
        &["the newest fence is"],
    ),
    (
        "set more aside than was",
        |j, r| {
            let poison = j.poison.as_mut()?;
            let stream = poison
                .clients
                .values_mut()
                .filter(|s| !s.spans.is_empty())
                .choose(r)?;
            stream.spans.last_mut()?.end += 1;
            stream.length += 1;
            poison.len += 1;
            Some(())
        },
        &["bytes of output to the file of tuples set aside"],
    ),
    (
        "lose what was set aside",
        |j, r| {
            let poison = j.poison.as_mut()?;
            let stream = poison.clients.values_mut().filter(|s| s.length > 0).choose(r)?;
            poison.len -= stream.length;
            stream.length = 0;
            stream.spans.clear();
            Some(())
        },
        &[
            "bytes of output to the file of tuples set aside",
            "as written to the file of tuples",
        ],
    ),
];
