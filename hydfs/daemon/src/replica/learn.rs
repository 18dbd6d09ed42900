//! How a node's view grows, and what becomes of everything under way.

use super::view_state::ViewState;
use super::{Effect, Replica};
use crate::store::{self, Memory, NodeFacts, Store};
use hydfs::view::{Incarnation, NodeIx, View};

impl<S: Store> Replica<S> {
    pub(super) fn suspect(&mut self, node: NodeIx, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        // Whoever is called failed has no say: it may be the one that does not hear.
        let away = self.current.view.failed_since(self.me, self.incarnation());
        if node == self.me || away || !self.current.view.is_alive(node) {
            return Ok(());
        }
        let mut view = self.current.view.clone();
        view.fail(node, view.incarnation(node));
        self.learn(&view, out)
    }

    /// This node can't be a member of its sets as they are: it leaves them and comes back, with a take-over in between.
    pub(super) fn rejoin(&mut self, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        let mut view = self.heard.clone();
        view.fail(self.me, self.incarnation());
        self.learn(&view, out)
    }

    /// Is called failed, and may come back: at once when there are connections with all that are alive. Otherwise one of them may have called
    /// this node failed because it does not hear it, and would again, and each time sets would have to be found anew; then this node stays
    /// away, unless there is no majority without it.
    fn may_return(&self, view: &View) -> bool {
        let connected = |n: NodeIx| n == self.me || self.up.contains(&n);
        !view.has_majority() || view.alive().all(connected)
    }

    /// Takes all facts of `other`. A fact against this node itself makes it come back under a higher incarnation, when it may.
    pub(super) fn learn(&mut self, other: &View, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        let news = self.heard.merge(other) || self.heard != self.current.view;
        let away = self.heard.failed_since(self.me, self.incarnation());
        let returns = away && self.may_return(&self.heard);
        if !news && !returns {
            return Ok(());
        }
        let mut view = self.heard.clone();
        let mut memory = self.memory();
        let (joined, failed) = (view.incarnation(self.me), view.failed(self.me));
        let mut incarnation = self.incarnation();
        if joined > incarnation {
            // A later life of this node, which this disk knows nothing of: it is older than that, or new.
            incarnation = Incarnation(joined.max(failed).0 + 1);
            memory = Memory {
                born: incarnation,
                whole: incarnation,
            };
        } else if returns {
            incarnation = Incarnation(failed.0 + 1);
        }
        view.join(self.me, incarnation);
        // Not acted on before it is written down.
        self.store.set_node(NodeFacts {
            born: memory.born,
            whole: memory.whole,
            incarnation,
            view: view.clone(),
        })?;
        self.heard = view.clone();
        self.current.refuse_waiters(out);
        self.take(view);
        out.push(Effect::ViewChanged);
        Ok(())
    }

    pub(super) fn memory(&self) -> Memory {
        let new = Memory {
            born: self.incarnation(),
            whole: self.incarnation(),
        };
        self.store.node().map_or(new, NodeFacts::memory)
    }

    /// This is the view now; everything under way is forgotten.
    fn take(&mut self, view: View) {
        self.current = ViewState::new(view, &self.ring);
        self.repairs.pause();
        self.flush.begin_view(self.peers());
    }
}
