//! Steps of the task's protocol that the simulation leaves out, to see that it would notice.

common::mutants! {
    pub(crate) enum Mutant {
        /// Received repeats are not dropped.
        Dedup,
        /// What the destination has already is appended again.
        StreamRepeats,
        /// Outputs leave before the log has what they depend on.
        EarlySend,
        /// Inputs are acknowledged before a checkpoint covers them.
        EarlyAck,
        /// Older epochs are not refused.
        Fence,
        /// A window that is full stops a task although its receiver waits to live through its log again.
        FullWindow,
        /// The snapshot holds the state of now, the cut the numbers of an earlier moment.
        Snapshot,
        /// What was put out by chance is not in the log.
        Weak,
        /// What a state that grows by chance led to leaves before the state is stored.
        Ungated,
        /// A source whose order is left to chance does not wait for its log.
        Fixed,
        /// A routing change is not in the log.
        Route,
        /// That state was handed over is not in the log.
        HandOver,
        /// State is handed over as soon as one upstream task routes by the new version.
        Unaligned,
        /// What goes by a new version is consumed before the state that it needs has come.
        Unheld,
        /// What a snapshot holds of keys that were handed over stays.
        Stale,
        /// The log is trimmed before a checkpoint covers what goes.
        EarlyTrim,
        /// What was put out by chance goes from the log although its receiver may ask for it.
        TrimUnasked,
        /// A base does not say which outputs there are.
        Receivers,
        /// State goes from the snapshot file that the newest checkpoint needs.
        SnapshotTrim,
    }
}
