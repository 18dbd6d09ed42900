//! The job's files in HyDFS: its input, its destination, its executables.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use common::signals::Stop;
use hydfs::client::names::poison_file;
use hydfs::client::{Client, Entry, Error as StoreError, Stat};

use crate::cli::{IfExists, Poison, Start};
use crate::driver::error::Error;
use crate::operators::Resolved;
use job::plan::{Input, Output, Plan, SPLIT_FROM, SourceFile};

/// Index questions under way at a time.
const AT_ONCE: usize = 16;

/// Every file under `src`, and the one file of that name.
pub async fn list(client: &Client, src: &str) -> Result<Vec<Entry>, StoreError> {
    let folder = format!("{src}/");
    let (under, single) = tokio::join!(client.find(&folder), client.stat(src));
    let mut files = under?;
    match single {
        Ok(stat) => files.push(Entry {
            file: stat.file,
            len: stat.len,
            creation: stat.creation,
        }),
        Err(StoreError::NoSuchFile { .. }) => {}
        Err(other) => return Err(other),
    }
    Ok(files)
}

pub fn source_file(entry: &Entry) -> SourceFile {
    SourceFile {
        name: entry.file.clone(),
        creation: entry.creation,
    }
}

/// The source's files, with the marks to split large ones at.
pub(super) async fn find_inputs(client: &Client, start: &Start) -> Result<Vec<Input>, Error> {
    let files = list(client, &start.src).await?;
    if files.is_empty() && !start.follow {
        return Err(start
            .refuse_src("HyDFS has no file of that name and none under it; see `hydfs find ''`")
            .into());
    }
    let mut inputs = vec![];
    for some in files.chunks(AT_ONCE) {
        let indexed = some.iter().map(|entry| {
            let (client, file, len) = (client.clone(), source_file(entry), entry.len);
            let (tell, heard) = tokio::sync::oneshot::channel();
            let guard = common::spawn::guarded("index", async move {
                let marks = if len >= SPLIT_FROM {
                    client.index((&*file.name, file.creation)).await
                } else {
                    Ok(vec![])
                };
                let _ = tell.send(marks.map(|marks| Input { file, len, marks }));
                Ok::<(), StoreError>(())
            });
            (guard, heard)
        });
        for (guard, heard) in indexed.collect::<Vec<_>>() {
            let input = heard
                .await
                .map_err(|_| Error::Cannot("looking up the source's line marks ended early".into()))?;
            drop(guard);
            inputs.push(input?);
        }
    }
    Ok(inputs)
}

pub(super) async fn stat_dest(client: &Client, start: &Start) -> Result<Option<Stat>, Error> {
    let stat = match (client.stat(&start.dest).await, start.if_exists) {
        (Ok(_), IfExists::Refuse) => return Err(refuse_dest(start)),
        (Ok(stat), _) => Some(stat),
        (Err(StoreError::NoSuchFile { .. }), _) => None,
        (Err(other), _) => return Err(other.into()),
    };
    if start.poison == Poison::Skip && start.if_exists == IfExists::Refuse {
        let file = poison_file(&start.dest);
        if client.exists(&file).await? {
            let what = format!(
                "tuples set aside would go to `{file}`, which is there already; choose another name, say --append or --overwrite, or remove it: hydfs rm {file}"
            );
            return Err(start.refuse_dest(what).into());
        }
    }
    Ok(stat)
}

pub(super) fn refuse_dest(start: &Start) -> Error {
    let dest = &start.dest;
    let what = format!(
        "HyDFS has that file already; choose another name, say --append or --overwrite, or remove it: hydfs rm {dest}"
    );
    start.refuse_dest(what).into()
}

/// Makes the destination as planned, if that has not been done. What others made under its name is
/// [`StoreError::Exists`], unless it is to be replaced.
pub(super) async fn make_dest(client: &Client, plan: &Plan) -> Result<(), StoreError> {
    let Output::Made { nonce, replace } = plan.output else {
        let there = client.stat(&plan.dest).await?.creation;
        return match plan.output.creation() {
            Some(meant) if meant != there => Err(StoreError::Replaced {
                file: plan.dest.clone(),
            }),
            _ => Ok(()),
        };
    };
    if !replace {
        return client.create_as(&plan.dest, nonce).await;
    }
    // What was set aside for the one that is replaced goes with it.
    match remove_if_there(client, &poison_file(&plan.dest)).await {
        Ok(()) | Err(StoreError::InvalidName { .. }) => {}
        Err(other) => return Err(other),
    }
    match client.create_as(&plan.dest, nonce).await {
        Err(StoreError::Exists { .. }) => {}
        other => return other,
    }
    remove_if_there(client, &plan.dest).await?;
    client.create_as(&plan.dest, nonce).await
}

async fn remove_if_there(client: &Client, file: &str) -> Result<(), StoreError> {
    match client.remove(file).await {
        Err(StoreError::NoSuchFile { .. }) => Ok(()),
        other => other,
    }
}

/// Puts foreign executables into HyDFS, each content once.
pub(super) async fn ship(client: &Client, resolved: &[Resolved], stop: &Stop) -> Result<(), Error> {
    let contents: BTreeMap<&String, &PathBuf> = resolved
        .iter()
        .filter_map(|r| r.content.as_ref())
        .map(|(n, p)| (n, p))
        .collect();
    for (name, path) in contents {
        let bytes = tokio::fs::read(path).await.map_err(|source| Error::Io {
            what: format!("cannot read {}", path.display()),
            source,
        })?;
        put_once(client, name, &bytes, stop).await?;
    }
    Ok(())
}

/// A file of that name may be there, whole, growing (another leader ships it just now), left behind in part, or another one: its
/// name is not trusted.
async fn put_once(client: &Client, name: &str, bytes: &[u8], stop: &Stop) -> Result<(), Error> {
    const GROWS_WITHIN: u32 = 10;
    let (mut len, mut still) = (0, 0);
    loop {
        match client.put(bytes, name, stop, |_| {}).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Exists { .. }) => {}
            Err(other) => return Err(other.into()),
        }
        loop {
            let now = match client.stat(name).await {
                Ok(stat) => stat.len,
                Err(StoreError::NoSuchFile { .. }) => break,
                Err(other) => return Err(other.into()),
            };
            if now == bytes.len() as u64 {
                if holds(client, name, bytes).await? {
                    return Ok(());
                }
                tracing::warn!(name, "OPERATOR_COPY_REPLACED");
                client.remove(name).await?;
                break;
            }
            still = if now == len { still + 1 } else { 0 };
            len = now;
            if still >= GROWS_WITHIN {
                client.remove(name).await?;
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn holds(client: &Client, name: &str, bytes: &[u8]) -> Result<bool, Error> {
    let (mut pieces, mut left) = (client.stream(name, 0..bytes.len() as u64), bytes);
    while let Some(piece) = pieces.next().await {
        match left.strip_prefix(&*piece?) {
            Some(rest) => left = rest,
            None => return Ok(false),
        }
    }
    Ok(left.is_empty())
}
