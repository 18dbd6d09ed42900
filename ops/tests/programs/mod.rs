//! Programs for tests: written into a folder of the test's own, started, and ended with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ops::Emit;
use ops::foreign::{DESCRIBE_WITHIN, Process, Spec, describe};
use ops::operator::{Error, InputKeys};
use protocol::batch::{Batch, Builder};
use protocol::control::{OpKind, Protocol};
use tempfile::TempDir;

pub const SOON: Duration = Duration::from_secs(30);
pub const RUST: &str = env!("CARGO_BIN_EXE_rainstorm-op");

pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Default)]
pub struct Collect(pub Pairs);

impl Emit for Collect {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        self.0.push((key.to_vec(), value.to_vec()));
    }
}

pub struct Program {
    pub exe: PathBuf,
    pub args: Vec<String>,
    pub spec: Spec,
    env: Vec<(String, String)>,
    dir: Arc<TempDir>,
}

pub struct Running {
    pub process: Process,
    pub stderr: Arc<Mutex<Vec<String>>>,
    /// Kept as long as the program runs.
    _dir: Arc<TempDir>,
}

pub const BATCH: Spec = Spec {
    kind: OpKind::Transform,
    protocol: Protocol::Batch,
    keys: true,
};
pub const TEXT: Spec = Spec {
    protocol: Protocol::Text,
    ..BATCH
};

fn program(text: &str, spec: Spec) -> Program {
    let dir = tempfile::tempdir().unwrap();
    let exe = dir.path().join("op");
    fs::write(&exe, text).unwrap();
    fs::set_permissions(&exe, PermissionsExt::from_mode(0o755)).unwrap();
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let env = vec![
        ("PYTHONPATH".to_owned(), package.display().to_string()),
        ("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()),
    ];
    Program {
        exe,
        args: vec![],
        spec,
        env,
        dir: Arc::new(dir),
    }
}

/// A program that speaks the protocol by itself, well or badly. `request()` gives the next request (None: the end).
pub fn raw(body: &str) -> Program {
    let prelude = "#!/usr/bin/env python3\nimport os, signal, sys, time\n\
        del os.environ['RAINSTORM_PROTOCOL']\nfrom rainstorm import wire\n\
        source = open(0, 'rb')\nrequest = lambda: wire.read_frame(source)\n\
        def say(*message): os.write(1, wire.frame(*message))\n\
        def passed(n): say(wire.PASSED, b'\\1' * n)\n\
        def count(request): return len(request[2][0]) // 4\n";
    program(&format!("{prelude}{body}\n"), BATCH)
}

/// A program in the text protocol.
pub fn text(body: &str) -> Program {
    program(
        &format!("#!/usr/bin/env python3\nimport os, signal, sys, time\n{body}\n"),
        TEXT,
    )
}

/// A program of the Python SDK.
pub fn python(body: &str) -> Program {
    let text = format!(
        "#!/usr/bin/env python3\nimport os, signal, sys, time\nimport rainstorm\n{body}\nrainstorm.run()\n"
    );
    let mut program = program(&text, BATCH);
    program.spec.keys = !body.contains("(value)");
    program
}

/// A program of the Rust SDK: an operator that comes with RainStorm, as a process.
pub fn rust(line: &str) -> Program {
    let mut program = program("", BATCH);
    program.exe = PathBuf::from(RUST);
    program.args = line.split(' ').map(str::to_owned).collect();
    let inside = ops::builtin(&program.args[0], &program.args[1..]).unwrap();
    program.spec.keys = inside.input_keys() == InputKeys::Read;
    program
}

impl Program {
    pub async fn start_within(&self, op_timeout: Duration) -> Running {
        let stderr = Arc::new(Mutex::new(vec![]));
        let lines = stderr.clone();
        let hand_on = move |line: &str| lines.lock().unwrap().push(line.to_owned());
        let process = Process::start(
            &self.exe, &self.args, &self.env, &self.spec, None, op_timeout, hand_on,
        );
        let process = process.await.unwrap();
        Running {
            process,
            stderr,
            _dir: self.dir.clone(),
        }
    }

    pub async fn start(&self) -> Running {
        self.start_within(SOON).await
    }

    /// Checks what the program says of itself against how the test starts it.
    pub async fn check_description(&self) {
        let d = describe(&self.exe, &self.args, DESCRIBE_WITHIN, |_| {})
            .await
            .unwrap()
            .unwrap();
        assert_eq!((d.protocol, d.keys), (self.spec.protocol, self.spec.keys));
    }
}

impl Running {
    pub async fn run(&mut self, batch: &Batch) -> Result<Pairs, Error> {
        let mut out = Collect::default();
        let done = self.process.process(batch, &mut out);
        tokio::time::timeout(2 * SOON, done)
            .await
            .expect("the operator is waited for without bound")?;
        Ok(out.0)
    }

    pub async fn finish_input(&mut self) -> Pairs {
        let mut out = Collect::default();
        self.process.finish_input(&mut out).await.unwrap();
        out.0
    }

    /// The error of a batch, after which the program is of no use.
    pub async fn fails(&mut self, batch: &Batch) -> Error {
        let e = self.run(batch).await.unwrap_err();
        assert!(
            self.run(&numbered(1))
                .await
                .unwrap_err()
                .what
                .contains("failed before")
        );
        e
    }
}

pub fn batch<K: AsRef<[u8]>, V: AsRef<[u8]>>(tuples: &[(K, V)]) -> Batch {
    let mut b = Builder::new();
    tuples.iter().for_each(|(k, v)| b.push(k.as_ref(), v.as_ref()));
    b.take()
}

/// `<k0, v0>`, `<k1, v1>`, ...
pub fn numbered(n: usize) -> Batch {
    let tuples: Vec<_> = (0..n).map(|i| (format!("k{i}"), format!("v{i}"))).collect();
    batch(&tuples)
}
