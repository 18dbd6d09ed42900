//! Steps of the replica's protocol that the simulation leaves out, to see that its oracles notice.

common::mutants! {
    pub(crate) enum Mutant {
        /// Two of three acknowledge.
        TwoAcks,
        /// A minority takes over.
        NoMajority,
        /// Nobody remembers for which sets it was asked.
        ForgetAsked,
        /// The open segment is sealed at what all holders share, those of older sets included.
        ShareOfAll,
        /// What a coordinator knows not to be committed is sealed in all the same.
        SealAll,
        /// Old epochs may append.
        Fence,
        /// A returning node's own longer segments count.
        UnionReturning,
        /// A new disk proves as much as an old one.
        NewDisksCount,
        /// A disk that may have lost the newest is believed about how much there was.
        BelieveLosers,
        /// A surplus copy is dropped as soon as the new set is active, whether or not that has fetched everything.
        DropEarly,
        /// What only the coordinator has may be trimmed.
        TrimUncommitted,
        /// A take-over forgets the base.
        ForgetBase,
        /// A returning node's copy from before a trim counts.
        ReturnTrimmed,
        /// A process that was replaced may trim.
        UnfencedTrim,
        /// A lookup is answered by whoever believes to coordinate, without a probe to the members.
        Unprobed,
    }
}
