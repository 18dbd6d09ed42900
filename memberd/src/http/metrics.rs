//! `GET /metrics`: Prometheus' text format, version 0.0.4.

use std::fmt::Write as _;

use axum::extract;
use axum::http::header;
use axum::response::IntoResponse as _;

use super::{Answer, Shared};
use crate::driver::Metrics;
use crate::state::State;

pub(super) async fn show(extract::State(shared): extract::State<Shared>) -> Answer {
    let metrics = shared.0.handle.metrics().await?;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, text(shared.0.me.as_str(), &metrics)).into_response())
}

fn text(me: &str, m: &Metrics) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP memberd_{name} {help}\n# TYPE memberd_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(out, "memberd_{name}{labels} {value}");
        }
    };
    let states = [State::Alive, State::Suspect, State::Failed, State::Left].map(|state| {
        let n = m.members.iter().filter(|member| member.state == state).count();
        (format!("{{state=\"{state}\"}}"), n as u64)
    });
    metric("members", "gauge", "Members listed, by state", &states);
    let s = &m.configuration.settings;
    let info = format!(
        "{{protocol=\"{}\",suspicion=\"{}\"}}",
        s.protocol,
        s.suspicion_word()
    );
    metric("protocol_info", "gauge", "The protocol in force", &[(info, 1)]);
    let own = m.members.iter().find(|member| member.name.as_str() == me);
    let (c, t) = (&m.counts, &m.traffic);
    #[rustfmt::skip] // a table
    let gauges = [
        ("incarnation", "This node's incarnation", own.map_or(0, |member| member.incarnation)),
        ("configuration_version", "0: the cluster file's", m.configuration.version),
        ("local_health", "How much this node distrusts itself, 0 to 8", c.health.into()),
        ("damped_members", "Members held back for coming and going all the time", c.damped as u64),
    ];
    #[rustfmt::skip] // a table
    let counters = [
        ("accusations_total", "Members that this node itself found silent", c.accusations),
        ("failures_total", "Members that this node came to call failed", c.failures),
        ("refutations_total", "Accusations of this node that it refuted", c.refutations),
        ("stalls_total", "Times that this process stood still", c.stalls),
        ("sent_datagrams_total", "Datagrams sent", t.sent),
        ("sent_bytes_total", "Bytes in datagrams sent, without IP and UDP headers", t.sent_bytes),
        ("received_datagrams_total", "Datagrams received", t.received),
        ("received_bytes_total", "Bytes in datagrams received, without IP and UDP headers", t.received_bytes),
        ("refused_datagrams_total", "Datagrams refused as foreign, altered or replayed", t.refused),
        ("dropped_datagrams_total", "Datagrams thrown away for a test (drop_rate)", c.dropped),
        ("table_exchanges_total", "Exchanges of whole tables begun by this node", t.exchanges),
    ];
    for (kind, rows) in [("gauge", &gauges[..]), ("counter", &counters[..])] {
        for (name, help, value) in rows {
            metric(name, kind, help, &[(String::new(), *value)]);
        }
    }
    out
}
