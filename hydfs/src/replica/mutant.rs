//! Ways to be wrong, for the simulation to find: it proves that its oracles see. Only tests can be wrong.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) enum Mutant {
    #[default]
    None,
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
    NoFence,
    /// A returning node's own longer segments count.
    UnionReturning,
    /// A new disk proves as much as an old one.
    NewDisksCount,
    /// A disk that may have lost the newest is believed about how much there was.
    BelieveLosers,
    /// A surplus copy is dropped as soon as the new set is active, whether or not that has fetched everything.
    DropEarly,
}
