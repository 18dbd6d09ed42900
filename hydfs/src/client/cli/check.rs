//! `merge`, `fsck`, `stat`: how files are.

use common::ids::NodeName;

use super::out::Out;
use crate::client::{Client, Error};

fn names(nodes: &[NodeName]) -> String {
    nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}

pub async fn merge(client: &Client, name: &str, out: &mut Out<'_>) -> Result<(), Error> {
    let merged = client.merge(name).await?;
    let wanted = client.cluster().replication.min(client.cluster().nodes.len());
    let short = match merged.replicas.len() < wanted {
        true => format!(" (there should be {wanted}: too few nodes are alive)"),
        false => String::new(),
    };
    let text = format!(
        "{}: {} replicas identical: {}{short}; {} bytes, {} copies repaired, {} appends read back, in {:.1} ms\n",
        merged.file,
        merged.replicas.len(),
        names(&merged.replicas),
        merged.len,
        merged.repaired,
        merged.read_back,
        merged.elapsed.as_secs_f64() * 1000.0,
    );
    out.write(text.as_bytes()).await
}

pub async fn fsck(client: &Client, prefix: &str, quick: bool, out: &mut Out<'_>) -> Result<(), Error> {
    let report = client.fsck(prefix, quick).await?;
    let line = |f: &crate::client::Finding| {
        let file = f.file.as_deref().unwrap_or("-");
        format!("{}\t{file}\t{}\n", f.kind, f.what)
    };
    let text: String = report.findings.iter().map(line).collect();
    let read = match quick {
        true => "not read back".to_owned(),
        false => format!("{} bytes read back", report.bytes),
    };
    let summary = format!(
        "{} files, {} copies, {read}, in {:.1} s",
        report.files,
        report.copies,
        report.elapsed.as_secs_f64()
    );
    if report.findings.is_empty() {
        return out.write(format!("{summary}: all is well\n").as_bytes()).await;
    }
    out.write(text.as_bytes()).await?;
    let mut files: Vec<&str> = report.findings.iter().filter_map(|f| f.file.as_deref()).collect();
    files.dedup();
    files.sort_unstable();
    files.dedup();
    let ranges = report.findings.iter().filter(|f| f.file.is_none()).count();
    let of_ranges = match ranges {
        0 => String::new(),
        n => format!(", and {n} of the ranges cannot be looked at in full: what is in them is not known"),
    };
    Err(Error::Unsound(format!(
        "{summary}: {} of the files are not well{of_ranges}",
        files.len()
    )))
}

pub async fn stat(client: &Client, name: &str, json: bool, out: &mut Out<'_>) -> Result<(), Error> {
    let stat = client.stat_any(name).await?;
    let replicas: Vec<&str> = stat.replicas.iter().map(NodeName::as_str).collect();
    let text = if json {
        serde_json::json!({
            "name": stat.file, "base": stat.base, "len": stat.len, "newlines": stat.newlines,
            "coordinator": stat.coordinator.as_ref().map(NodeName::as_str), "replicas": replicas,
            "under_replicated": stat.under_replicated,
        })
        .to_string()
    } else {
        let coordinator = stat.coordinator.as_ref().map_or("none", NodeName::as_str);
        let repair = match stat.under_replicated {
            true => " (under-replicated)",
            false => "",
        };
        let base = match stat.base {
            0 => String::new(),
            base => format!("\tbegins at byte {base}"),
        };
        format!(
            "{}\t{} bytes\t{} newlines{base}\tcoordinator {coordinator}\treplicas {}{repair}",
            stat.file,
            stat.len,
            stat.newlines,
            replicas.join(","),
        )
    };
    out.write(format!("{text}\n").as_bytes()).await
}
