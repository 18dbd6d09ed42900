//! Steps of a job's protocol that the simulation must miss.

common::mutants! {
    /// `sim::runs::mutants_are_caught` says at which seed each is.
    pub(crate) enum Mutant {
        /// A task's next process has the epoch of the one before.
        KeepEpoch,
        /// A leader that takes the job up gives its processes the epochs of the dead leader's.
        KeepBlock,
        /// A change is acted on before the journal has it.
        ActBeforeStored,
        /// A process registers, whatever became of it: an older one, and one that was given up.
        AdmitAnybody,
        /// A task that comes later is started, and the next stage is not told of it.
        StartUnannounced,
        /// The stage before is told of a table before all tasks in it are ready.
        ReleaseEarly,
        /// Who was taken out goes before the stage before routes past it for good.
        RetireEarly,
        /// A done task is not started again for those who wait for its acknowledgement.
        LeaveDone,
    }
}
