//! What a log keeps beside the order: the tuples that records consumed, the chunks that they put out.

use std::collections::{BTreeSet, VecDeque};

use protocol::task_log::Keeps;

use super::shape::Shape;

/// A chunk that a position put out.
#[derive(Debug, Clone, Copy)]
struct Production {
    pos: u64,
    output: usize,
    start: u64,
}

#[derive(Debug)]
pub struct Kept {
    shape: Shape,
    /// Per output: where the next production begins.
    produced: Vec<u64>,
    /// Productions that no checkpoint has passed.
    behind: VecDeque<Production>,
    newest: u64,
    /// Positions whose consumed tuples are kept, since the last order record.
    tuples: BTreeSet<u64>,
}

impl Kept {
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            produced: vec![0; shape.outputs(0)],
            behind: VecDeque::new(),
            newest: 0,
            tuples: BTreeSet::new(),
        }
    }

    /// What was put out before is gone from the log: `emitted` units of each output.
    pub fn begin_at(&mut self, emitted: &[u64]) {
        self.open(emitted.len());
        self.produced[..emitted.len()].copy_from_slice(emitted);
    }

    /// Where a base's outputs are not what was put out before it; nothing where nothing is kept.
    pub fn stands_at(&self, emitted: &[u64]) -> Option<String> {
        let differs = self.shape.keeps == Keeps::Productions && self.produced != emitted;
        differs.then(|| "its outputs are not what was kept as it was put out".into())
    }

    /// The routing has changed: there are so many outputs now.
    pub fn open(&mut self, outputs: usize) {
        self.produced.resize(outputs.max(self.produced.len()), 0);
    }

    /// A production, which stands before its order record. Those of an output follow on from each other.
    pub fn production(
        &mut self,
        pos: u64,
        output: u16,
        units: std::ops::Range<u64>,
        next: u64,
    ) -> Vec<String> {
        let mut wrong = vec![];
        let (output, outputs) = (usize::from(output), self.produced.len());
        if self.shape.keeps != Keeps::Productions {
            wrong.push("what it put out is kept, though its operator can make it again".into());
        }
        let Some(have) = self.produced.get_mut(output) else {
            wrong.push(format!("there are {outputs} outputs, not {output}"));
            return wrong;
        };
        if units.start != *have || units.end < units.start {
            wrong.push(format!(
                "units {}..{} of output {output} were put out where unit {have} was next",
                units.start, units.end
            ));
        }
        if pos != next {
            wrong.push(format!(
                "it was put out by position {pos}, position {next} was at work"
            ));
        }
        self.behind.push_back(Production {
            pos,
            output,
            start: *have,
        });
        *have = units.end;
        self.newest = self.newest.max(pos);
        wrong
    }

    /// Consumed tuples, which stand before their order record.
    pub fn tuples(&mut self, pos: u64, next: u64) -> Vec<String> {
        let mut wrong = vec![];
        if self.shape.keeps != Keeps::Inputs {
            wrong.push("what it consumed is kept, though upstream has it".into());
        }
        if !self.tuples.insert(pos) {
            wrong.push("the consumed tuples are kept twice".into());
        }
        if pos != next {
            wrong.push(format!(
                "the consumed tuples are of position {pos}, position {next} was at work"
            ));
        }
        wrong
    }

    /// An order record has come; `batch`: it consumed tuples.
    pub fn order(&mut self, pos: u64, batch: bool) -> Option<String> {
        let kept = std::mem::take(&mut self.tuples).contains(&pos);
        match (self.shape.keeps, batch, kept) {
            (Keeps::Inputs, true, false) => Some("the tuples that it consumed are not kept".into()),
            (_, false, true) => Some("tuples are kept of a record that consumed none".into()),
            _ => None,
        }
    }

    /// Everything behind `pos` is void.
    pub fn void(&mut self, pos: u64) {
        while self.behind.back().is_some_and(|p| p.pos > pos)
            && let Some(last) = self.behind.pop_back()
        {
            self.produced[last.output] = last.start;
        }
        self.newest = self.newest.min(pos);
        self.tuples.clear();
    }

    /// A checkpoint of `pos` has come. Where its outputs are not what was put out up to there; nothing where nothing is
    /// kept.
    pub fn checkpoint(&mut self, pos: u64, emitted: &[u64]) -> Vec<String> {
        while self.behind.front().is_some_and(|p| p.pos <= pos) {
            self.behind.pop_front();
        }
        if self.shape.keeps != Keeps::Productions {
            return vec![];
        }
        let mut wrong = vec![];
        for (output, says) in emitted.iter().enumerate().take(self.produced.len()) {
            let since = self.behind.iter().find(|p| p.output == output);
            let kept = since.map_or(self.produced[output], |p| p.start);
            if *says != kept {
                wrong.push(format!(
                    "output {output} has come to {says} units, of which {kept} were kept as they were put out"
                ));
            }
        }
        wrong
    }

    /// At the log's end, which is `pos`.
    pub fn end(&self, pos: u64) -> Option<String> {
        if self.newest > pos {
            return Some(format!(
                "what position {} put out is kept, the order records end at {pos}",
                self.newest
            ));
        }
        let pos = self.tuples.first()?;
        Some(format!(
            "the tuples of position {pos} are kept, which has no order record"
        ))
    }
}
