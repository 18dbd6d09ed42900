//! `GET /metrics`: what Prometheus is told.

use std::time::Duration;

use axum::extract;
use axum::http::header;
use axum::response::IntoResponse as _;
use common::prometheus::{CONTENT_TYPE, Metric, Text};

use super::{Answer, Shared};
use crate::driver::Metrics;
use crate::state::State;

/// How long a scrape waits for what storage says.
const STORAGE_WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn show(extract::State(shared): extract::State<Shared>) -> Answer {
    let metrics = shared.0.handle.metrics().await?;
    let kind = [(header::CONTENT_TYPE, CONTENT_TYPE)];
    let mut text = text(shared.0.me.as_str(), &metrics);
    // Storage's come from the console. Without it membership's are there all the same, as soon as ever.
    let of_storage = tokio::time::timeout(STORAGE_WITHIN, shared.0.console.get("/metrics")).await;
    if let Ok(Ok(answered)) = of_storage
        && answered.status == 200
    {
        text += &String::from_utf8_lossy(&answered.body);
    }
    Ok((kind, text).into_response())
}

fn text(me: &str, m: &Metrics) -> String {
    let mut text = Text::default();
    let (name, help) = ("memberd_members", "Members listed, by state");
    text.family(name, Metric::Gauge, help);
    for state in [State::Alive, State::Suspect, State::Failed, State::Left] {
        let n = m.members.iter().filter(|member| member.state == state).count();
        text.sample(name, &[("state", &state.to_string())], n);
    }
    let s = &m.configuration.settings;
    let (name, protocol) = ("memberd_protocol_info", s.protocol.to_string());
    text.family(name, Metric::Gauge, "The protocol in force");
    let labels = [("protocol", protocol.as_str()), ("suspicion", s.suspicion_word())];
    text.sample(name, &labels, 1);
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
    for (metric, rows) in [(Metric::Gauge, &gauges[..]), (Metric::Counter, &counters[..])] {
        for (name, help, value) in rows {
            let name = format!("memberd_{name}");
            text.family(&name, metric, help);
            text.sample(&name, &[], value);
        }
    }
    text.finish()
}
