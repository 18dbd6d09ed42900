//! Every decoder that a stranger, a peer, an operator or a disk can reach, as a function of bytes.
//!
//! A decoder may refuse its input. It must not panic, hang, or allocate much more than its input is long. What it takes must
//! encode to something that it takes again.
//!
//! Two runners call the targets: the tests of this crate, which mutate the seeds for a moment each, and `tests/fuzz.sh`,
//! where libFuzzer follows the coverage for as long as one likes.

mod job;
mod net;
mod operator;
mod storage;

/// One decoder, or a few that read the same bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Who may have written the bytes.
    pub from: &'static str,
    pub run: fn(&[u8]),
    /// Valid inputs: where a fuzzer begins.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// It touches files, so a test runs it less often.
    pub slow: bool,
}

const fn target(
    name: &'static str,
    from: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
) -> Target {
    Target {
        name,
        from,
        run,
        seeds,
        slow: false,
    }
}

pub const TARGETS: &[Target] = &[
    target("frame", "anybody", net::frame, net::frame_seeds),
    target("hello", "anybody", net::hello, net::hello_seeds),
    target("datagram", "anybody", net::datagram, net::datagram_seeds),
    target("membership", "memberd", net::membership, net::membership_seeds),
    target("batch", "a worker", job::batch, job::batch_seeds),
    target(
        "control",
        "a worker or the leader",
        job::control,
        job::control_seeds,
    ),
    target(
        "standby",
        "a standby or the leader",
        job::standby,
        job::standby_seeds,
    ),
    target("data", "a worker", job::data, job::data_seeds),
    target("task-log", "the storage", job::task_log, job::task_log_seeds),
    target("operator", "an operator", operator::batch, operator::batch_seeds),
    target(
        "operator-text",
        "an operator",
        operator::text,
        operator::text_seeds,
    ),
    target(
        "storage-client",
        "a client of HyDFS",
        storage::client,
        storage::client_seeds,
    ),
    target(
        "storage-peer",
        "a storage node",
        storage::peer,
        storage::peer_seeds,
    ),
    Target {
        slow: true,
        ..target("disk", "the disk", storage::disk, storage::disk_seeds)
    },
];

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

#[cfg(test)]
mod tests;
