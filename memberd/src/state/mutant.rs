//! Rules of the group that the simulation breaks, one at a time, to see that its oracles notice.

common::mutants! {
    pub(crate) enum Mutant {
        /// A node does not contradict what is said of it.
        NoRefute,
        /// Nobody else is asked to probe.
        NoIndirect,
        /// An unanswered probe is a failure at once.
        NoSuspicion,
        /// Others raise a suspect's incarnation for it.
        RaiseOthers,
        /// The failed are never called again.
        NoSearch,
        /// A node leaves without saying so.
        SilentLeave,
        /// Datagrams carry facts about sender and receiver only.
        NoDissemination,
        /// `failed` by hearsay is believed even of a node that is present here.
        HearsayKills,
        /// Late timers are taken for good ones.
        StallBlind,
        /// Members that come and go all the time are published each time.
        Undamped,
        /// Of two configurations of one version each keeps its own.
        NoTieBreak,
        /// A configuration is told once and never again.
        NoAgreement,
        /// A prober that hears from nobody does not become more patient.
        NoLocalHealth,
        /// Whole tables are never exchanged.
        NoExchange,
    }
}
