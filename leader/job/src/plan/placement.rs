//! Which task starts on which node.

use std::collections::BTreeMap;

use common::ids::{NodeName, TaskId};

/// Round robin over `nodes`, going on from stage to stage: each stage is spread, and no node has more than one task
/// more than another.
pub fn place(tasks_per_stage: &[u16], nodes: &[NodeName]) -> BTreeMap<TaskId, NodeName> {
    let tasks = tasks_per_stage
        .iter()
        .enumerate()
        .flat_map(|(k, n)| (0..*n).map(move |i| TaskId::new(k as u16, i)));
    tasks
        .zip(nodes.iter().cycle())
        .map(|(task, node)| (task, node.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spread<'a>(on: impl Iterator<Item = &'a NodeName>, nodes: &[NodeName]) -> (usize, usize) {
        let mut load: BTreeMap<&NodeName, usize> = nodes.iter().map(|n| (n, 0)).collect();
        on.for_each(|n| *load.entry(n).or_default() += 1);
        (
            load.values().copied().min().unwrap_or(0),
            load.values().copied().max().unwrap_or(0),
        )
    }

    proptest! {
        #[test]
        fn even_over_all_and_within_each_stage(stages in prop::collection::vec(1u16..20, 1..6), n in 1usize..9) {
            let nodes: Vec<NodeName> = (0..n).map(|i| NodeName::new(format!("n{i}")).unwrap()).collect();
            let placed = place(&stages, &nodes);
            prop_assert_eq!(placed.len(), stages.iter().map(|t| usize::from(*t)).sum::<usize>());
            let (least, most) = spread(placed.values(), &nodes);
            prop_assert!(most - least <= 1);
            for k in 0..stages.len() {
                let of_stage = placed.iter().filter(|(t, _)| usize::from(t.stage) == k).map(|(_, n)| n);
                let (least, most) = spread(of_stage, &nodes);
                prop_assert!(most - least <= 1);
            }
        }
    }
}
