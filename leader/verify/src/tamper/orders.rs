//! Order records of channels.

use super::*;

pub const ROWS: &[Row<Tamper>] = &[
    (
        "drop an order record",
        |j, r| {
            // The last one's absence leaves no gap: that is another row's.
            let (task, i, pos) = order(j, r, |o| *o != Order::Finish)?;
            (pos > 0).then_some(())?;
            log(j, task)?.remove(i);
            Some(())
        },
        &["are missing"],
    ),
    (
        "duplicate an order record",
        |j, r| {
            let (task, i, _) = order(j, r, |_| true)?;
            let log = log(j, task)?;
            log.insert(i, log[i].clone());
            Some(())
        },
        &["is there twice"],
    ),
    (
        "swap two order records",
        |j, r| {
            let (task, i, pos) = order(j, r, |o| *o != Order::Finish)?;
            let log = log(j, task)?;
            let next = log
                .iter()
                .position(|(_, r)| matches!(r, Record::Order { pos: p, .. } if *p == pos + 1))?;
            log.swap(i, next);
            Some(())
        },
        &["are missing", "is there twice"],
    ),
    (
        "swap what two order records say",
        |j, r| {
            let (task, i, _) = order(j, r, is_batch)?;
            let log = log(j, task)?;
            let from_of = |r: &Record| match r {
                Record::Order {
                    order: Order::Input { from, .. },
                    ..
                } => Some(*from),
                _ => None,
            };
            let from = from_of(&log[i].1)?;
            let next = (i + 1..log.len()).find(|n| from_of(&log[*n].1) == Some(from))?;
            let (Record::Order { order: a, .. }, Record::Order { order: b, .. }) =
                (log[i].1.clone(), log[next].1.clone())
            else {
                return None;
            };
            if let Record::Order { order, .. } = &mut log[i].1 {
                *order = b
            }
            if let Record::Order { order, .. } = &mut log[next].1 {
                *order = a
            }
            Some(())
        },
        &["were never consumed"],
    ),
    (
        "cut a batch out",
        |j, r| cut_out(j, r, is_batch),
        &["were never consumed"],
    ),
    (
        "consume a batch twice",
        |j, r| put_in(j, r, is_batch, |o| o),
        &["twice now"],
    ),
    (
        "cut an end mark out",
        |j, r| cut_out(j, r, |o| matches!(o, Order::InputEnd { .. })),
        &["it finished before"],
    ),
    (
        "end an input twice",
        |j, r| {
            put_in(
                j,
                r,
                |o| matches!(o, Order::InputEnd { .. }),
                |o| match o {
                    Order::InputEnd { from, at } => Order::InputEnd { from, at: at + 1 },
                    other => other,
                },
            )
        },
        &["had ended"],
    ),
    (
        "consume behind an end mark",
        |j, r| {
            put_in(
                j,
                r,
                |o| matches!(o, Order::InputEnd { .. }),
                |o| match o {
                    Order::InputEnd { from, at } => Order::Input {
                        from,
                        start: at + 1,
                        end: at + 2,
                    },
                    other => other,
                },
            )
        },
        &["had ended"],
    ),
    (
        "lengthen a batch",
        |j, r| {
            edit_order(j, r, is_batch, |o| {
                if let Order::Input { end, .. } = o {
                    *end += 1
                }
            })
        },
        &["twice now"],
    ),
    (
        "begin a batch late",
        |j, r| {
            edit_order(j, r, is_batch, |o| {
                if let Order::Input { start, .. } = o {
                    *start += 1
                }
            })
        },
        &["were never consumed"],
    ),
    (
        "an empty batch",
        |j, r| {
            edit_order(j, r, is_batch, |o| {
                if let Order::Input { start, end, .. } = o {
                    *end = *start
                }
            })
        },
        &["are none"],
    ),
    (
        "move an end mark",
        |j, r| {
            edit_order(
                j,
                r,
                |o| matches!(o, Order::InputEnd { .. }),
                |o| {
                    if let Order::InputEnd { at, .. } = o {
                        *at += 1
                    }
                },
            )
        },
        &["were never consumed"],
    ),
    (
        "an input that is none",
        |j, r| {
            edit_order(j, r, is_batch, |o| {
                if let Order::Input { from, .. } = o {
                    *from = TaskId::new(9, 9)
                }
            })
        },
        &["is not upstream"],
    ),
    (
        "go on after the finish",
        |j, r| put_in(j, r, |o| *o == Order::Finish, |o| o),
        &["after the finish"],
    ),
    (
        "finish too early",
        |j, r| {
            let (task, i, pos) = order(j, r, |o| *o == Order::Finish)?;
            let log = log(j, task)?;
            let before = log
                .iter()
                .position(|(_, r)| matches!(r, Record::Order { pos: p, .. } if *p + 1 == pos))?;
            let Record::Order { order: other, .. } = log[before].1.clone() else {
                return None;
            };
            if let Record::Order { order, .. } = &mut log[before].1 {
                *order = Order::Finish
            }
            if let Record::Order { order, .. } = &mut log[i].1 {
                *order = other
            }
            Some(())
        },
        &["after the finish"],
    ),
    (
        "never finish",
        |j, r| {
            let (task, i, _) = order(j, r, |o| *o == Order::Finish)?;
            log(j, task)?.truncate(i);
            Some(())
        },
        &["it never finished"],
    ),
];
