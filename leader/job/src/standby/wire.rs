//! What a standby and its leader say to each other (role `Standby`, on the leader's control port).

use common::ids::{JobName, NodeName};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromStandby {
    /// The first message.
    Register { job: JobName, node: NodeName, pid: u32 },
    Beat {
        /// By how much its timers are late.
        late_ms: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToStandby {
    Beat {
        late_ms: u64,
        /// How many standbys are to act before this one.
        rank: u16,
    },
    /// The job needs it no more.
    Finish { why: String },
    /// The leader of another job answers here: the standby's own leader is gone.
    OtherJob,
}
