//! Many files at once, over one connection per node.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use common::spawn;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use super::transfer::{bar, create_of};
use super::{local, write};
use crate::client::{Client, Error, check_name};

/// Files made at the same time.
const AT_ONCE: usize = 32;
/// Errors told one by one.
const TOLD: usize = 5;

/// A local file and the name that it gets.
type Job = (PathBuf, String);

/// The names that `multicreate` gives.
fn named(n: usize, files: &[PathBuf], prefix: &str) -> Result<Vec<Job>, Error> {
    if n < files.len() {
        return Err(Error::Usage(format!(
            "multicreate: {} local files are more than the {n} files to be made; the number comes first, such as: hydfs multicreate {} {}",
            files.len(),
            files.len(),
            files
                .iter()
                .map(|f| f.display().to_string())
                .collect::<Vec<_>>()
                .join(" "),
        )));
    }
    let mut from: BTreeMap<String, &PathBuf> = BTreeMap::new();
    let mut jobs = Vec::new();
    for i in 0..n {
        let file = &files[i % files.len()];
        let base = file.file_name().and_then(|f| f.to_str()).ok_or_else(|| {
            Error::Usage(format!(
                "multicreate: {} has no name that a HyDFS file can have",
                file.display()
            ))
        })?;
        let name = match n == files.len() {
            true => format!("{prefix}{base}"),
            false => format!("{prefix}{base}.{}", i + 1),
        };
        check_name(&name)?;
        if let Some(first) = from.insert(name.clone(), file) {
            return Err(Error::Usage(format!(
                "multicreate: {} and {} would both be `{name}`; name them apart",
                first.display(),
                file.display()
            )));
        }
        jobs.push((file.clone(), name));
    }
    Ok(jobs)
}

pub async fn multicreate<W: AsyncWrite + Unpin>(
    client: &Client,
    n: usize,
    files: &[PathBuf],
    prefix: &str,
    out: &mut W,
) -> Result<(), Error> {
    let jobs = named(n, files, prefix)?;
    // Better found out before the first is made.
    for file in files {
        readable(file).await?;
    }
    create_all(client, jobs, out).await
}

async fn readable(path: &Path) -> Result<(), Error> {
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|e| local(path, "read", e))?;
    let meta = file.metadata().await.map_err(|e| local(path, "read", e))?;
    match meta.is_file() {
        true => Ok(()),
        false => Err(local(
            path,
            "read",
            std::io::Error::other("it is not a regular file"),
        )),
    }
}

pub async fn create_tree<W: AsyncWrite + Unpin>(
    client: &Client,
    folder: &Path,
    name: &str,
    out: &mut W,
) -> Result<(), Error> {
    let name = name.trim_end_matches('/');
    if !name.is_empty() {
        check_name(name)?;
    }
    let mut jobs = Vec::new();
    let mut folders = vec![(folder.to_owned(), name.to_owned())];
    while let Some((folder, name)) = folders.pop() {
        let read = |e| local(&folder, "read", e);
        let mut entries: Vec<_> = std::fs::read_dir(&folder)
            .and_then(Iterator::collect)
            .map_err(read)?;
        entries.sort_unstable_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (path, own) = (entry.path(), entry.file_name());
            let Some(own) = own.to_str() else {
                return Err(local(
                    &path,
                    "name",
                    std::io::Error::other("its name is not UTF-8"),
                ));
            };
            let full = match name.is_empty() {
                true => own.to_owned(),
                false => format!("{name}/{own}"),
            };
            let kind = std::fs::metadata(&path).map_err(|e| local(&path, "read", e))?;
            if kind.is_dir() && !entry.file_type().is_ok_and(|t| t.is_symlink()) {
                folders.push((path, full));
            } else if kind.is_file() {
                check_name(&full)?;
                jobs.push((path, full));
            } else {
                return Err(local(
                    &path,
                    "read",
                    std::io::Error::other("it is neither a file nor a folder"),
                ));
            }
        }
    }
    jobs.sort_unstable_by(|a, b| a.1.cmp(&b.1));
    create_all(client, jobs, out).await
}

/// Makes all files; prints the name and length of each. Some may fail: the others are made all the same.
async fn create_all<W: AsyncWrite + Unpin>(
    client: &Client,
    jobs: Vec<Job>,
    out: &mut W,
) -> Result<(), Error> {
    let total = jobs.len();
    let jobs: Arc<Mutex<VecDeque<Job>>> = Arc::new(Mutex::new(jobs.into()));
    let (tell, mut made) = mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for _ in 0..AT_ONCE.min(total) {
        let (client, jobs, tell) = (client.clone(), jobs.clone(), tell.clone());
        tasks.push(spawn::guarded("hydfs-create", async move {
            loop {
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((path, name)) = job else { break };
                let done = create_one(&client, &path, &name).await;
                if tell.send((name, done)).is_err() {
                    break;
                }
            }
            Ok::<(), Infallible>(())
        }));
    }
    drop(tell);
    let bar = bar((total > 200).then_some(u64::MAX), "create");
    bar.set_length(total as u64);
    let mut failed: Vec<Error> = Vec::new();
    while let Some((name, done)) = made.recv().await {
        bar.inc(1);
        match done {
            Ok(len) => write(out, format!("{name}\t{len}\n").as_bytes()).await?,
            Err(error) => failed.push(error),
        }
    }
    bar.finish_and_clear();
    if failed.is_empty() {
        return Ok(());
    }
    if total == 1 {
        return Err(failed.remove(0));
    }
    let told: Vec<String> = failed.iter().take(TOLD).map(Error::to_string).collect();
    let more = match failed.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    Err(Error::Some(format!(
        "{} of {total} files were not made: {}{more}",
        failed.len(),
        told.join("; ")
    )))
}

async fn create_one(client: &Client, path: &Path, name: &str) -> Result<u64, Error> {
    let mut file = tokio::fs::File::open(path)
        .await
        .map_err(|e| local(path, "read", e))?;
    file.set_max_buf_size(1024 * 1024);
    create_of(client, file, name, |_| {}).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_number_and_the_files() {
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let names = |n, f: &[&str], p| {
            named(n, &files(f), p).map(|j| j.into_iter().map(|(_, n)| n).collect::<Vec<_>>())
        };
        assert_eq!(names(2, &["x/a", "b"], "").unwrap(), ["a", "b"]);
        assert_eq!(
            names(3, &["x/a", "b"], "in/").unwrap(),
            ["in/a.1", "in/b.2", "in/a.3"]
        );
        for (n, some, prefix) in [
            (1, &["a", "b"][..], ""),
            (2, &["x/a", "y/a"], ""),
            (1, &[".."], ""),
            (1, &["a"], "../"),
        ] {
            assert!(
                names(n, some, prefix).is_err_and(|e| e.code() == 2),
                "{n} {some:?}"
            );
        }
    }
}
