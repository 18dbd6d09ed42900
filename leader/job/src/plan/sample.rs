//! A small plan for tests.

use std::collections::BTreeMap;

use common::ids::{Creation, JobName, NodeName};
use protocol::control::{Format, OpCode, OpKind, OpSpec, Slice};

use super::{Output, Plan, Routing, Stage, place};

/// A job of identities over `nodes`.
pub fn sample(stages: u16, tasks: u16, sources: u16, nodes: &[NodeName]) -> Plan {
    let op = OpSpec {
        exe: "identity".into(),
        args: vec![],
        kind: OpKind::Transform,
        code: OpCode::Builtin,
        deterministic: true,
    };
    let mut all = vec![Stage {
        op: None,
        tasks: sources,
    }];
    all.extend((0..stages).map(|_| Stage {
        op: Some(op.clone()),
        tasks,
    }));
    let sizes: Vec<u16> = all.iter().map(|s| s.tasks).collect();
    Plan {
        job: JobName::new("j").expect("a name"),
        exactly_once: true,
        format: Format::Tsv,
        dest: "out".into(),
        op_timeout_ms: 1000,
        rate: 0,
        stages: all,
        sources: (0..sources)
            .map(|i| {
                vec![Slice {
                    file: format!("f{i}"),
                    creation: Some(Creation(7)),
                    label: None,
                    start: 0,
                    end: 10,
                    newlines_before: 0,
                }]
            })
            .collect(),
        nodes: place(&sizes, nodes),
        src: "in".into(),
        output: Output::Made {
            nonce: 7,
            replace: false,
        },
        max_restarts: 5,
        poison: None,
        follow: false,
        keep_logs: false,
        drain: false,
        skips: BTreeMap::new(),
        scaling: None,
        routing: Routing::default(),
        standbys: 0,
    }
}
