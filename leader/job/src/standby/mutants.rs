//! Steps of the standbys' protocol that the simulation must miss.

common::mutants! {
    /// `sim::mutants_are_caught` says at which seed each is.
    pub(crate) enum Mutant {
        /// A standby leads without having fenced the journal.
        SkipFence,
        /// A standby takes up a job that has ended.
        TakeUpEnded,
        /// A standby fences the journal though another leader has taken the job up since.
        IgnoreSuccessor,
        /// A standby that dies is not replaced.
        LeaveUnreplaced,
        /// Silence of the leader counts for nothing.
        WaitForClose,
        /// All standbys act at once.
        ForgetRank,
    }
}
