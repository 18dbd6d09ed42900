//! The Python SDK's own tests.

use std::path::Path;
use std::process::Command;

#[test]
fn the_python_sdk_passes_its_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let done = Command::new("python3")
        .args(["-m", "unittest", "discover", "-s", "tests", "-t", "."])
        .current_dir(folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 is there");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("OK") && !said.contains("Ran 0 tests"), "{said}");
}
