//! Many files at once, over one connection per node.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use common::output::complain;
use common::signals::Stop;
use common::spawn;
use tokio::sync::mpsc;

use super::local;
use super::out::Out;
use super::transfer::{bar, open};
use crate::client::names::{Deed, check_users};
use crate::client::{Client, Error, check_name};

/// Files made at the same time.
const AT_ONCE: usize = 32;
/// Errors told one by one.
const TOLD: usize = 5;

/// A local file and the name that it gets.
type CreateJob = (PathBuf, String);

/// The names that `multicreate` gives.
fn named(n: usize, files: &[PathBuf], prefix: &str, system: bool) -> Result<Vec<CreateJob>, Error> {
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
        check(&name, system)?;
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

pub async fn multicreate(
    client: &Client,
    n: usize,
    files: &[PathBuf],
    prefix: &str,
    system: bool,
    stop: &Stop,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let jobs = named(n, files, prefix, system)?;
    // Better found out before the first is made.
    for file in files {
        readable(file).await?;
    }
    create_all(client, jobs, &[], stop, out).await
}

fn check(name: &str, system: bool) -> Result<(), Error> {
    check_name(name)?;
    match system {
        true => Ok(()),
        false => check_users(name, Deed::Write),
    }
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

/// Links to files are taken for the files. Links to folders could lead back, and those to nothing have nothing: they are left out,
/// named, and an error in the end.
pub async fn create_tree(
    client: &Client,
    folder: &Path,
    name: &str,
    system: bool,
    stop: &Stop,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let name = name.trim_end_matches('/');
    if !name.is_empty() {
        check(name, system)?;
    }
    let Tree { jobs, left_out } = walk(folder, name, system)?;
    for left in &left_out {
        complain(format_args!("hydfs: {left}"));
    }
    create_all(client, jobs, &left_out, stop, out).await
}

/// What is in a folder.
#[derive(Debug, Default)]
struct Tree {
    jobs: Vec<CreateJob>,
    left_out: Vec<String>,
}

fn walk(folder: &Path, name: &str, system: bool) -> Result<Tree, Error> {
    let mut tree = Tree::default();
    let mut folders = vec![(folder.to_owned(), name.to_owned())];
    while let Some((folder, name)) = folders.pop() {
        let read = |e| local(&folder, "read", e);
        let mut entries: Vec<_> = std::fs::read_dir(&folder)
            .and_then(Iterator::collect)
            .map_err(read)?;
        entries.sort_unstable_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (path, own) = (entry.path(), entry.file_name());
            let refused = |what, why: &str| Err(local(&path, what, std::io::Error::other(why)));
            let Some(own) = own.to_str() else {
                return refused("name", "its name is not UTF-8");
            };
            let full = match name.is_empty() {
                true => own.to_owned(),
                false => format!("{name}/{own}"),
            };
            let is_link = entry.file_type().is_ok_and(|t| t.is_symlink());
            let kind = match std::fs::metadata(&path) {
                Err(error) if is_link => {
                    tree.leave_out(&path, &format!("a symbolic link that leads nowhere ({error})"));
                    continue;
                }
                kind => kind.map_err(|e| local(&path, "read", e))?,
            };
            if kind.is_dir() && is_link {
                tree.leave_out(&path, "a symbolic link to a folder");
            } else if kind.is_dir() {
                folders.push((path, full));
            } else if kind.is_file() {
                check(&full, system)?;
                tree.jobs.push((path, full));
            } else {
                return refused("read", "it is neither a file nor a folder");
            }
        }
    }
    tree.jobs.sort_unstable_by(|a, b| a.1.cmp(&b.1));
    Ok(tree)
}

impl Tree {
    fn leave_out(&mut self, path: &Path, what: &str) {
        let to = std::fs::read_link(path).unwrap_or_default();
        self.left_out.push(format!(
            "{} is left out: it is {what}, to {}",
            path.display(),
            to.display()
        ));
    }
}

/// Makes all files; prints the name and length of each. Some may fail: the others are made all the same. Stopped, it makes no
/// more, and removes those that are not whole.
async fn create_all(
    client: &Client,
    jobs: Vec<CreateJob>,
    left_out: &[String],
    stop: &Stop,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let total = jobs.len() + left_out.len();
    let jobs: Arc<Mutex<VecDeque<CreateJob>>> = Arc::new(Mutex::new(jobs.into()));
    let (tell, mut done) = mpsc::channel(AT_ONCE);
    let mut tasks = Vec::new();
    for _ in 0..AT_ONCE.min(total) {
        let (client, jobs, tell, stop) = (client.clone(), jobs.clone(), tell.clone(), stop.clone());
        tasks.push(spawn::guarded("hydfs-create", async move {
            while stop.was_asked().is_none() {
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((path, name)) = job else { break };
                let made = create_one(&client, &path, &name, &stop).await;
                if tell.send((name, made)).await.is_err() {
                    break;
                }
            }
            Ok::<(), Infallible>(())
        }));
    }
    drop(tell);
    let bar = bar((total > 200).then_some(u64::MAX), "create");
    bar.set_length(total as u64);
    let (mut made, mut failed, mut unwritten) = (0, Vec::new(), Ok(()));
    while let Some((name, one)) = done.recv().await {
        bar.inc(1);
        match one {
            Ok(len) => {
                made += 1;
                // The files are what was asked for: they are made also when nobody can be told.
                if unwritten.is_ok() {
                    unwritten = out.write(format!("{name}\t{len}\n").as_bytes()).await;
                }
            }
            Err(Error::Stopped { what, .. }) if what.ends_with("was not made") => {}
            Err(error) => failed.push(error),
        }
    }
    bar.finish_and_clear();
    conclude(total, made, failed, left_out, stop)?;
    unwritten
}

/// What it came to.
fn conclude(
    total: usize,
    made: usize,
    mut failed: Vec<Error>,
    left_out: &[String],
    stop: &Stop,
) -> Result<(), Error> {
    let told = |whys: Vec<String>| {
        let more = match whys.len().saturating_sub(TOLD) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        format!("{}{more}", whys[..whys.len().min(TOLD)].join("; "))
    };
    if let Some(by) = stop.was_asked()
        && made < total
    {
        let whys: Vec<String> = failed.iter().map(Error::to_string).collect();
        let why = if whys.is_empty() {
            String::new()
        } else {
            format!("; {}", told(whys))
        };
        let what = format!("{made} of {total} files were made, whole{why}");
        return Err(Error::Stopped { by, what });
    }
    if failed.is_empty() && left_out.is_empty() {
        return Ok(());
    }
    if total == 1 && failed.len() == 1 {
        return Err(failed.remove(0));
    }
    let whys = failed
        .iter()
        .map(Error::to_string)
        .chain(left_out.iter().cloned());
    let whys: Vec<String> = whys.collect();
    Err(Error::Some(format!(
        "{} of {total} files were not made: {}",
        whys.len(),
        told(whys)
    )))
}

async fn create_one(client: &Client, path: &Path, name: &str, stop: &Stop) -> Result<u64, Error> {
    let (file, _) = open(path).await?;
    client.put(file, name, stop, |_| {}).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_number_and_the_files() {
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let names = |n, f: &[&str], p| {
            named(n, &files(f), p, false).map(|j| j.into_iter().map(|(_, n)| n).collect::<Vec<_>>())
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
            (1, &["a"], "jobs/"),
            (1, &["a.poison"], ""),
        ] {
            assert!(
                names(n, some, prefix).is_err_and(|e| e.code() == 2),
                "{n} {some:?}"
            );
        }
    }

    #[test]
    fn links_to_files_are_files_and_other_links_are_named() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("in/sub")).unwrap();
        std::fs::write(at("in/sub/a"), "a").unwrap();
        std::fs::write(at("outside"), "b").unwrap();
        symlink(at("outside"), at("in/b")).unwrap();
        symlink(at("in"), at("in/sub/loop")).unwrap();
        symlink("none", at("in/dangling")).unwrap();
        let tree = walk(&at("in"), "x", false).unwrap();
        let names: Vec<&str> = tree.jobs.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["x/b", "x/sub/a"]);
        let said = tree.left_out.join("\n");
        for named in [
            "in/sub/loop is left out",
            "a folder",
            "in/dangling is left out",
            "leads nowhere",
        ] {
            assert!(said.contains(named), "{said}");
        }
        assert!(walk(&at("in"), "jobs", false).is_err() && walk(&at("in"), "jobs", true).is_ok());
    }
}
