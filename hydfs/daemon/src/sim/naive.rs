//! Who should hold what, worked out the slow way from names and distances, and held against what nodes fetch and drop.

use super::world::{Node, World};
use crate::store::mem::MemStore;
use crate::store::{NodeFacts, Store};
use hydfs::content::{FileName, Segment};
use hydfs::ring::{RangeIx, token};
use hydfs::view::{NodeIx, View};

/// The three nodes alive in `view` that come first from the range's end on, clockwise.
pub fn members(w: &World, range: RangeIx, view: &View) -> Vec<usize> {
    let token_of = |node: usize| token(w.ring.name(NodeIx(node as u16)));
    let end = token_of(range.0 as usize);
    let mut alive: Vec<usize> = (0..w.n).filter(|n| view.is_alive(NodeIx(*n as u16))).collect();
    alive.sort_by_key(|n| token_of(*n).wrapping_sub(end));
    alive.truncate(3);
    alive
}

/// `node` plans to fetch a segment: as a member, and because it misses it.
pub fn fetches(
    w: &World,
    node: usize,
    range: RangeIx,
    name: &FileName,
    segment: &Segment,
    from: &[NodeIx],
) -> Option<String> {
    let replica = w.nodes[node].replica.as_ref()?;
    let members = members(w, range, replica.view());
    let what = || format!("node {node} fetches {name} {} of range {}", segment.id, range.0);
    if !members.contains(&node) {
        return Some(format!("{}, which is for {members:?}", what()));
    }
    let held = replica
        .store()
        .file(range, name)
        .and_then(|f| f.segment(segment.id));
    if !held.is_some_and(|s| s.missing && s.sealed) {
        return Some(format!("{}, and has it", what()));
    }
    from.contains(&NodeIx(node as u16))
        .then(|| format!("{} from itself", what()))
}

/// `node` has dropped its copies of a range as surplus: the range's members are others, and have everything.
pub fn drops(w: &World, node: usize, range: RangeIx) -> Option<String> {
    let view = w.nodes[node].replica.as_ref()?.view();
    let members = members(w, range, view);
    if members.contains(&node) {
        return Some(format!("node {node} drops range {} and is a member", range.0));
    }
    for member in &members {
        // A disk that was lost since is one loss, which is promised to be survived.
        let is_new = |facts: &NodeFacts| facts.born > view.incarnation(NodeIx(*member as u16));
        let lacks = match disk(w, *member) {
            store if store.node().is_none_or(is_new) => None,
            store if store.range(range).installed.is_none() => Some("the range".to_owned()),
            store => store.files(range).find_map(|(name, file)| {
                let missing = file
                    .segments
                    .iter()
                    .find(|s| s.missing && !w.damaged.contains(&(*member, name.clone(), s.id)));
                Some(format!("{name} {}", missing?.id))
            }),
        };
        if let Some(lacks) = lacks {
            return Some(format!(
                "node {node} drops range {}, and {member} of {members:?} has not got {lacks}",
                range.0
            ));
        }
    }
    None
}

fn disk(w: &World, node: usize) -> &MemStore {
    let Node { replica, disk, .. } = &w.nodes[node];
    let running = replica.as_ref().map(|r| r.store());
    running
        .or(disk.as_ref())
        .expect("a node that is down has its disk")
}
