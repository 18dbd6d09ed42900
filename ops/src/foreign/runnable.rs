//! Why a file cannot be run, seen from its first bytes.
//!
//! The system's own words are few: "no such file" for a missing interpreter and for a carriage return behind its name, and what
//! begins with nothing that it knows is given to `sh`, whatever language it is in.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is looked at: an interpreter's line, a program's headers.
const HEAD: u64 = 4096;

/// A file that the system cannot run as it is. What to do is said with it.
#[derive(Debug, thiserror::Error)]
pub enum Unrunnable {
    #[error("{0} is not there; give the path of an executable")]
    Missing(PathBuf),
    #[error("{0} is not a file that can be run; give the path of an executable file")]
    NoFile(PathBuf),
    #[error("{0} cannot be read: {1}")]
    Read(PathBuf, std::io::Error),
    #[error("{0} is not executable; type: chmod +x {0}")]
    Mode(PathBuf),
    #[error("{0} is empty; write a program into it")]
    Empty(PathBuf),
    #[error(
        "{0} was saved with CR LF line ends, as Windows has them: the system looks for an interpreter whose name ends with a \
         carriage return; type: sed -i 's/\\r$//' {0}"
    )]
    CarriageReturn(PathBuf),
    #[error(
        "{0} begins with {1} before `#!`, so that the system does not see the interpreter's name; save it without"
    )]
    Before(PathBuf, &'static str),
    #[error(
        "{0} is a text, but its first line names no interpreter; begin it with `#!/usr/bin/env python3`, `#!/bin/sh` or the like"
    )]
    NoInterpreter(PathBuf),
    #[error(
        "the interpreter named in the first line (#!) of {0} is not on this node: {1}; install it there, or name another"
    )]
    Interpreter(PathBuf, String),
    #[error("the interpreter named in the first line (#!) of {0} is not executable: {1}; type: chmod +x {1}")]
    InterpreterMode(PathBuf, String),
    #[error(
        "the interpreter named in the first line (#!) of {0} is not on this node: `env` finds no `{1}` along PATH ({2})"
    )]
    Env(PathBuf, String, String),
    #[error(
        "the first line (#!) of {0} gives `env` the one word `{1}`: the system does not split it; write `#!/usr/bin/env -S {1}`"
    )]
    EnvWord(PathBuf, String),
    #[error("{0} is a program for {1}; this machine runs {2}. Build it for this one")]
    Machine(PathBuf, String, String),
    #[error(
        "{0} needs the loader {1}, which is not on this node: it was built for another system. Build it here, or link it statically"
    )]
    Loader(PathBuf, String),
    #[error(
        "{0} is neither a program for Linux nor a script that begins with `#!`; build it for Linux, or begin it with an interpreter"
    )]
    Unknown(PathBuf),
}

/// Refuses what the system would not run, or would give to `sh` for want of anything better.
pub fn check(exe: &Path) -> Result<(), Unrunnable> {
    let at = || exe.to_path_buf();
    let unread = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Unrunnable::Missing(at()),
        _ => Unrunnable::Read(at(), e),
    };
    let meta = std::fs::metadata(exe).map_err(unread)?;
    if !meta.is_file() {
        return Err(Unrunnable::NoFile(at()));
    }
    if meta.permissions().mode() & 0o111 == 0 {
        return Err(Unrunnable::Mode(at()));
    }
    let mut head = vec![];
    let file = std::fs::File::open(exe).map_err(unread)?;
    file.take(HEAD).read_to_end(&mut head).map_err(unread)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        return script(exe, line.split(|b| *b == b'\n').next().unwrap_or_default());
    }
    if let Some(machine) = Machine::of(&head) {
        return program(exe, &head, machine);
    }
    // Something may have been told to run files of other kinds.
    if others_are_run() {
        return Ok(());
    }
    let text = head.trim_ascii_start();
    Err(match &head[..] {
        [] => Unrunnable::Empty(at()),
        [0xEF, 0xBB, 0xBF, b'#', b'!', ..] => Unrunnable::Before(at(), "a byte order mark"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => {
            Unrunnable::Before(at(), "UTF-16's byte order mark (it should be UTF-8)")
        }
        [b'M', b'Z', ..] => Unrunnable::Machine(at(), "Windows".into(), "Linux".into()),
        [0xCF | 0xCE, 0xFA, 0xED, 0xFE, ..] | [0xCA, 0xFE, 0xBA, 0xBE, ..] => {
            Unrunnable::Machine(at(), "macOS (or Java)".into(), "Linux".into())
        }
        _ if text.starts_with(b"#!") => Unrunnable::Before(at(), "white space"),
        head if !head.contains(&0) => Unrunnable::NoInterpreter(at()),
        _ => Unrunnable::Unknown(at()),
    })
}

/// `line`: what stands behind `#!`.
fn script(exe: &Path, line: &[u8]) -> Result<(), Unrunnable> {
    let at = || exe.to_path_buf();
    if line.contains(&b'\r') {
        return Err(Unrunnable::CarriageReturn(at()));
    }
    let line = String::from_utf8_lossy(line);
    let line = line.trim_matches([' ', '\t']);
    let (interpreter, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    if interpreter.is_empty() {
        return Err(Unrunnable::NoInterpreter(at()));
    }
    match std::fs::metadata(interpreter) {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => {}
        Ok(_) => return Err(Unrunnable::InterpreterMode(at(), interpreter.into())),
        Err(_) => return Err(Unrunnable::Interpreter(at(), interpreter.into())),
    }
    if Path::new(interpreter)
        .file_name()
        .is_some_and(|name| name == "env")
    {
        return env(exe, rest.trim_matches([' ', '\t']));
    }
    Ok(())
}

/// What `env` is given: one word, unless it splits that itself.
fn env(exe: &Path, word: &str) -> Result<(), Unrunnable> {
    let name = match word.strip_prefix("-S") {
        Some(words) => words.split_ascii_whitespace().find(|w| !w.contains('=')),
        None => Some(word),
    };
    // Other options, variables, quotes: env knows best.
    let Some(name) =
        name.filter(|n| !n.is_empty() && !n.starts_with('-') && !n.contains(['=', '"', '\'', '\\', '$']))
    else {
        return Ok(());
    };
    if name.contains([' ', '\t']) {
        return Err(Unrunnable::EnvWord(exe.into(), name.into()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let runs = |file: PathBuf| {
        std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    let found = match name.contains('/') {
        true => runs(name.into()),
        false => std::env::split_paths(&path).any(|folder| runs(folder.join(name))),
    };
    match found {
        true => Ok(()),
        false => Err(Unrunnable::Env(
            exe.into(),
            name.into(),
            path.to_string_lossy().into_owned(),
        )),
    }
}

/// An ELF file: for this machine, and its loader is here.
fn program(exe: &Path, head: &[u8], machine: Machine) -> Result<(), Unrunnable> {
    let mut own = vec![];
    let read = std::fs::File::open("/proc/self/exe").and_then(|file| file.take(HEAD).read_to_end(&mut own));
    let here = read.ok().and_then(|_| Machine::of(&own));
    if let Some(here) = here
        && !here.runs(machine)
        && !others_are_run()
    {
        return Err(Unrunnable::Machine(exe.into(), machine.name(), here.name()));
    }
    match loader(head) {
        Some(loader) if !Path::new(&loader).exists() => Err(Unrunnable::Loader(exe.into(), loader)),
        _ => Ok(()),
    }
}

/// Whether binfmt_misc knows more kinds of files (an emulator for another machine, Java).
fn others_are_run() -> bool {
    let entries = std::fs::read_dir("/proc/sys/fs/binfmt_misc")
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter(|e| !matches!(e.file_name().to_str(), Some("register" | "status")))
        .any(|e| std::fs::read(e.path()).is_ok_and(|text| text.starts_with(b"enabled")))
}

/// What an ELF file says that it runs on (`e_machine`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Machine(u16);

impl Machine {
    const I386: Self = Self(3);
    const ARM: Self = Self(40);
    const X86_64: Self = Self(62);
    const ARM_64: Self = Self(183);

    fn of(head: &[u8]) -> Option<Self> {
        let bytes = [*head.get(18)?, *head.get(19)?];
        if !head.starts_with(b"\x7FELF") {
            return None;
        }
        // EI_DATA: the order of bytes.
        Some(Self(match head[5] {
            2 => u16::from_be_bytes(bytes),
            _ => u16::from_le_bytes(bytes),
        }))
    }

    fn runs(self, other: Self) -> bool {
        // 64-bit machines run their 32-bit predecessors' programs.
        self == other
            || matches!(
                (self, other),
                (Self::X86_64, Self::I386) | (Self::ARM_64, Self::ARM)
            )
    }

    fn name(self) -> String {
        match self {
            Self::I386 => "32-bit x86",
            Self::ARM => "32-bit ARM",
            Self::X86_64 => "x86-64",
            Self::ARM_64 => "64-bit ARM",
            Self(8) => "MIPS",
            Self(20 | 21) => "PowerPC",
            Self(22) => "s390",
            Self(243) => "RISC-V",
            Self(other) => return format!("the machine with ELF number {other}"),
        }
        .to_owned()
    }
}

/// The loader that a 64-bit little-endian ELF file names (PT_INTERP); `None`: it needs none, or says so elsewhere.
fn loader(head: &[u8]) -> Option<String> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, len: usize| {
        let bytes = head.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b)))
    };
    // ELFCLASS64, ELFDATA2LSB
    if head.get(4..6)? != [2, 1] {
        return None;
    }
    let (table, size, entries) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for entry in 0..entries {
        let at = usize::try_from(table.checked_add(entry * size)?).ok()?;
        if number(at, 4)? == PT_INTERP {
            let from = usize::try_from(number(at.checked_add(8)?, 8)?).ok()?;
            let len = usize::try_from(number(at.checked_add(32)?, 8)?).ok()?;
            let name = head.get(from..from.checked_add(len)?)?;
            return Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(content: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("op");
        std::fs::write(&exe, content).unwrap();
        std::fs::set_permissions(&exe, PermissionsExt::from_mode(0o755)).unwrap();
        check(&exe).err().map_or_else(String::new, |e| e.to_string())
    }

    #[test]
    fn what_runs_is_not_refused() {
        for good in [
            "#!/bin/sh\n",
            "#! /bin/sh -e\n\r\n",
            "#!/bin/sh",
            "#!/usr/bin/env sh\nx",
            "#!/usr/bin/env -S A=b sh -e\n",
        ] {
            assert_eq!(said(good.as_bytes()), "", "{good}");
        }
        check(&std::env::current_exe().unwrap()).unwrap();
        check(Path::new("/bin/sh")).unwrap();
    }

    #[test]
    fn what_does_not_run_is_explained() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut foreign = own[..HEAD as usize].to_vec();
        foreign[18..20].copy_from_slice(&[8, 0]);
        let interp = loader(&own).expect("a test is linked dynamically");
        let at = own
            .windows(interp.len())
            .position(|w| w == interp.as_bytes())
            .unwrap();
        let mut elsewhere = own[..HEAD as usize].to_vec();
        elsewhere[at + 1] = b'#';
        let cases: [(&[u8], &str); 14] = [
            (b"", "is empty"),
            (b"#!/usr/bin/env python3\r\nprint()\r\n", "CR LF"),
            (b"#!/bin/sh\recho", "sed -i 's/\\r$//'"),
            (b"\xEF\xBB\xBF#!/bin/sh\n", "a byte order mark before `#!`"),
            (b"\xFF\xFE#\0!\0", "UTF-16"),
            (b"\n#!/bin/sh\n", "white space before `#!`"),
            (b"import sys\n", "names no interpreter"),
            (b"#!\n", "names no interpreter"),
            (b"#!/no/such/python -u\n", "not on this node: /no/such/python"),
            (b"#!/etc/passwd\n", "not executable: /etc/passwd"),
            (b"#!/usr/bin/env no-such-python\n", "finds no `no-such-python`"),
            (b"#!/usr/bin/env python3 -u\n", "env -S python3 -u"),
            (b"MZ\x90\0\x03", "a program for Windows"),
            (b"\0\x01\x02", "neither a program"),
        ];
        for (content, says) in cases {
            let said = said(content);
            assert!(
                said.contains(says),
                "{}: {said}",
                String::from_utf8_lossy(content)
            );
        }
        assert!(
            said(&foreign).contains("a program for MIPS; this machine runs"),
            "{}",
            said(&foreign)
        );
        assert!(
            said(&elsewhere).contains("needs the loader /#"),
            "{}",
            said(&elsewhere)
        );
    }

    #[test]
    fn any_bytes_can_be_looked_at() {
        use proptest::prelude::*;
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap()[..HEAD as usize].to_vec();
        proptest!(|(bytes: Vec<u8>, at in 0usize..128, cut in 0usize..4096)| {
            let _ = (loader(&bytes), Machine::of(&bytes));
            let mut head = own[..cut].to_vec();
            let end = head.len().min(at + bytes.len());
            let at = at.min(end);
            head[at..end].copy_from_slice(&bytes[..end - at]);
            let _ = loader(&head);
        });
    }
}
