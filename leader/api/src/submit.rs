//! Submitting a job from anywhere: `rainstormctl rainstorm`, and whoever serves the same over another way.
//!
//! The program `leader` plans the job here, ships its executables, and has the node with most room lead it.

use std::path::Path;
use std::process::Stdio;

use common::ids::JobName;
use tokio::process::Command;

/// A job that was not started.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error("cannot start {program}: {source}")]
    Program { program: String, source: std::io::Error },
    /// `code`: of the program; 2: the arguments cannot be right.
    #[error("{said}")]
    Refused { code: u8, said: String },
}

/// Starts a job as `leader ARGS` does, but for where it is led, and returns when it is under way. `own`: the folder of the
/// programs; `folder`: what paths in `args` are relative to, if not to this process's own folder.
pub async fn submit(
    own: &Path,
    cluster: &Path,
    args: &[String],
    folder: Option<&Path>,
) -> Result<JobName, SubmitError> {
    let program = own.join("leader");
    let mut command = Command::new(&program);
    command.arg("--cluster").arg(cluster).arg("--detach");
    if !args
        .iter()
        .any(|word| word == "--on" || word.starts_with("--on="))
    {
        command.args(["--on", "any"]);
    }
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let run = command
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = run.await.map_err(|source| SubmitError::Program {
        program: program.display().to_string(),
        source,
    })?;
    let out = String::from_utf8_lossy(&output.stdout);
    match JobName::new(out.trim()) {
        Ok(job) if output.status.success() => Ok(job),
        _ => {
            let code = output.status.code().and_then(|code| u8::try_from(code).ok());
            let said = String::from_utf8_lossy(&output.stderr);
            let said = format!("{}{}", out.trim_end(), said.trim_end());
            Err(SubmitError::Refused {
                code: code.filter(|code| *code > 0).unwrap_or(1),
                said: said.strip_prefix("leader: ").unwrap_or(&said).to_owned(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn outcome(script: &str, args: &[&str]) -> Result<JobName, SubmitError> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("leader");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        submit(dir.path(), Path::new("/c.toml"), &args, Some(dir.path())).await
    }

    #[tokio::test]
    async fn the_jobs_name_is_what_the_program_prints() {
        let says = r#"[ "$*" = '--cluster /c.toml --detach --on any 1 1 a b' ] && echo j1"#;
        assert_eq!(outcome(says, &["1", "1", "a", "b"]).await.unwrap().as_str(), "j1");
        let says = r#"[ "$*" = '--cluster /c.toml --detach --on n2 1' ] && echo j2"#;
        assert_eq!(outcome(says, &["--on", "n2", "1"]).await.unwrap().as_str(), "j2");
    }

    #[tokio::test]
    async fn a_refusal_comes_with_its_reason_and_code() {
        let refused = outcome("echo 'leader: no such file' >&2; exit 2", &[])
            .await
            .unwrap_err();
        assert!(matches!(&refused, SubmitError::Refused { code: 2, .. }));
        assert_eq!(refused.to_string(), "no such file");
        let refused = outcome("exit 0", &[]).await.unwrap_err();
        assert!(matches!(refused, SubmitError::Refused { code: 1, .. }));
    }
}
