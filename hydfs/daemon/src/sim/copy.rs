//! Repair, as a driver does it.

use super::world::World;
use crate::replica::Input;
use crate::store::{Put, Store};
use hydfs::content::{FileName, Segment};
use hydfs::ring::RangeIx;
use hydfs::view::NodeIx;

impl World {
    /// A segment's entries and bytes, in two pieces, from the first who has it.
    pub(super) fn copy(
        &mut self,
        node: usize,
        range: RangeIx,
        file: FileName,
        nonce: u64,
        segment: Segment,
        from: &[NodeIx],
    ) {
        let mut got = None;
        for from in from.iter().map(|n| n.0 as usize) {
            if self.cut.contains(&(from, node)) || self.cut.contains(&(node, from)) {
                continue;
            }
            let Some(replica) = &self.nodes[from].replica else {
                continue;
            };
            let Some(held) = replica.store().file(range, &file).filter(|f| f.nonce == nonce) else {
                continue;
            };
            let Some(prefix) = held
                .segment(segment.id)
                .filter(|s| !s.missing)
                .and_then(|s| s.prefix(segment.entries))
            else {
                continue;
            };
            if prefix.same(&segment)
                && let Ok(bytes) = replica.store().read(range, &file, segment.id, 0, segment.bytes)
            {
                got = Some((prefix.index, bytes));
                break;
            }
        }
        let mut done = false;
        if let Some((index, bytes)) = got {
            let half = index.len() / 2;
            let at = index[..half].last().map_or(0, |e| e.end as usize);
            let Some(replica) = &mut self.nodes[node].replica else {
                return;
            };
            let store = replica.store_mut();
            let pieces = [
                (0, &index[..half], bytes.slice(..at)),
                (half, &index[half..], bytes.slice(at..)),
            ];
            for (start, entries, bytes) in pieces {
                let put = store.put_segment(range, &file, segment.id, start as u64, entries, &bytes);
                done = matches!(put, Ok(Put::Done));
                if put.is_err() {
                    break;
                }
            }
        }
        if done {
            self.damaged.remove(&(node, file.clone(), segment.id));
        }
        let input = if done {
            Input::Repaired { range, file, segment }
        } else {
            Input::RepairFailed { range, file, segment }
        };
        self.input(node, input);
    }
}
