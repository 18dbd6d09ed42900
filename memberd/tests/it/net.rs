//! A cluster file with three nodes, and drivers on them.

use std::future::pending;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::cluster::Cluster;
use common::ids::NodeName;
use common::net::Identity;
use common::spawn;
use memberd::driver::Driver;

pub fn name(n: &str) -> NodeName {
    NodeName::new(n).unwrap()
}

/// A TCP and a UDP port of 127.0.1.1 that are free now.
fn ports() -> (u16, u16) {
    let here = (Ipv4Addr::new(127, 0, 1, 1), 0);
    let (tcp, udp) = (TcpListener::bind(here).unwrap(), UdpSocket::bind(here).unwrap());
    (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port())
}

/// `cluster.toml` in `dir`: nodes at 127.0.1.`first` and up, on ports that are free now.
pub fn write_cluster(dir: &Path, first: u8, nodes: u8, security: &str) -> PathBuf {
    let secret = dir.join("secret");
    std::fs::write(&secret, "a secret for this test only").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (admin, membership) = ports();
    let mut text = format!(
        "secret_file = \"secret\"\nsecurity = \"{security}\"\n[ports]\nmembership = {membership}\nintroducer = {membership}\nadmin = {admin}\n"
    );
    for i in 0..nodes {
        text += &format!(
            "[[node]]\nname = \"n{}\"\naddr = \"127.0.1.{}\"\n",
            i + 1,
            first + i
        );
    }
    let path = dir.join("cluster.toml");
    std::fs::write(&path, text).unwrap();
    path
}

pub struct Net {
    pub dir: tempfile::TempDir,
    pub cluster: Arc<Cluster>,
}

impl Net {
    pub fn new(first: u8, security: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = write_cluster(dir.path(), first, 3, security);
        Self {
            cluster: Arc::new(Cluster::load(&path).unwrap()),
            dir,
        }
    }

    pub async fn start(&self, n: &str) -> spawn::Guard {
        let driver = Driver::bind(self.cluster.clone(), &name(n)).await.unwrap();
        spawn::guarded("memberd", driver.run(pending()))
    }

    pub fn me(&self) -> Identity {
        Identity {
            who: "test".into(),
            node: None,
            secret: self.cluster.secret().unwrap(),
            security: self.cluster.security,
        }
    }
}
