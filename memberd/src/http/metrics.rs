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
    let one = |value: u64| [(String::new(), value)];
    let states = [State::Alive, State::Suspect, State::Failed, State::Left].map(|state| {
        let n = m.members.iter().filter(|member| member.state == state).count();
        (format!("{{state=\"{state}\"}}"), n as u64)
    });
    metric("members", "gauge", "Members listed, by state", &states);
    let own = m.members.iter().find(|member| member.name.as_str() == me);
    let incarnation = own.map_or(0, |member| member.incarnation);
    metric(
        "incarnation",
        "gauge",
        "This node's incarnation",
        &one(incarnation),
    );
    let s = &m.configuration.settings;
    let info = format!(
        "{{protocol=\"{}\",suspicion=\"{}\"}}",
        s.protocol,
        s.suspicion_word()
    );
    metric("protocol_info", "gauge", "The protocol in force", &[(info, 1)]);
    let version = m.configuration.version;
    metric(
        "configuration_version",
        "gauge",
        "0: the cluster file's",
        &one(version),
    );
    let c = &m.counts;
    metric(
        "local_health",
        "gauge",
        "How much this node distrusts itself, 0 to 8",
        &one(c.health.into()),
    );
    metric(
        "damped_members",
        "gauge",
        "Members held back for coming and going all the time",
        &one(c.damped as u64),
    );
    metric(
        "accusations_total",
        "counter",
        "Members that this node itself found silent",
        &one(c.accusations),
    );
    metric(
        "failures_total",
        "counter",
        "Members that this node came to call failed",
        &one(c.failures),
    );
    metric(
        "refutations_total",
        "counter",
        "Accusations of this node that it refuted",
        &one(c.refutations),
    );
    metric(
        "stalls_total",
        "counter",
        "Times that this process stood still",
        &one(c.stalls),
    );
    let t = &m.traffic;
    metric("sent_datagrams_total", "counter", "Datagrams sent", &one(t.sent));
    metric(
        "sent_bytes_total",
        "counter",
        "Bytes in datagrams sent, without IP and UDP headers",
        &one(t.sent_bytes),
    );
    metric(
        "received_datagrams_total",
        "counter",
        "Datagrams received",
        &one(t.received),
    );
    metric(
        "received_bytes_total",
        "counter",
        "Bytes in datagrams received, without IP and UDP headers",
        &one(t.received_bytes),
    );
    metric(
        "refused_datagrams_total",
        "counter",
        "Datagrams refused as foreign, altered or replayed",
        &one(t.refused),
    );
    metric(
        "dropped_datagrams_total",
        "counter",
        "Datagrams thrown away for a test (drop_rate)",
        &one(c.dropped),
    );
    metric(
        "table_exchanges_total",
        "counter",
        "Exchanges of whole tables begun by this node",
        &one(t.exchanges),
    );
    out
}
