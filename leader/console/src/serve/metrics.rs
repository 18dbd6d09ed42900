//! A node's storage for Prometheus. memberd serves it behind its own metrics.

use common::prometheus::{Metric, Text};
use hydfs::client::{Level, NodeStatus};

pub fn text(status: &NodeStatus) -> String {
    let NodeStatus { disk, stored, work } = status;
    let mut text = Text::default();
    let name = "hydfsd_stored_bytes";
    text.family(
        name,
        Metric::Gauge,
        "Bytes of this node's own copies, by what they are",
    );
    #[rustfmt::skip] // a table
    let kinds = [
        ("users", stored.users), ("logs", stored.logs), ("snapshots", stored.snapshots), ("journals", stored.journals),
        ("operators", stored.operators), ("operator_copies", stored.operator_copies), ("program_logs", stored.program_logs),
    ];
    for (kind, bytes) in kinds {
        text.sample(name, &[("kind", kind)], bytes);
    }
    #[rustfmt::skip] // a table
    let gauges = [
        ("disk_capacity_bytes", "The disk of the node's data folder", disk.capacity),
        ("disk_used_bytes", "What is used of it, by whomever", disk.used),
        ("disk_free_bytes", "What the storage daemon can still use of it", disk.free),
        ("disk_level", "0: roomy, 1: it fills, 2: users make no new files", match disk.level { Level::Roomy => 0, Level::Fills => 1, Level::Short => 2 }),
        ("files", "Files of which the node holds a copy", stored.files),
        ("missing_segments", "Segments of its own copies that are being repaired, or wait for it", work.missing_segments),
        ("ranges", "Ranges that the node coordinates", work.ranges),
        ("under_replicated_ranges", "Those of which a replica misses bytes", work.under_replicated_ranges),
        ("unavailable_ranges", "Those that cannot be written now", work.unavailable_ranges),
        ("backlog_bytes", "Entries that not all replicas have yet", work.backlog_bytes),
        ("clients", "Connections of clients", work.clients),
        ("resident_bytes", "Memory of the storage daemon", work.resident_bytes),
        ("uptime_seconds", "Since its start", work.uptime_s),
    ];
    #[rustfmt::skip] // a table
    let counters = [
        ("appends_total", "Appends that clients sent to this node", work.appends),
        ("append_bytes_total", "Bytes in them", work.append_bytes),
        ("repaired_segments_total", "Segments that were fetched from other nodes", work.repaired_segments),
        ("repaired_bytes_total", "Bytes in them", work.repaired_bytes),
    ];
    for (metric, rows) in [(Metric::Gauge, &gauges[..]), (Metric::Counter, &counters[..])] {
        for (name, help, value) in rows {
            let name = format!("hydfsd_{name}");
            text.family(&name, metric, help);
            text.sample(&name, &[], value);
        }
    }
    text.finish()
}
