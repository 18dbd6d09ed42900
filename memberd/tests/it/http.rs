//! HTTP as scripts use it, against drivers over real sockets.

use common::backoff::Backoff;
use common::clock;
use common::ids::NodeName;
use memberd::client::{self, Follower};
use memberd::{Member, State};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::BOUND;
use crate::net::Net;

impl Net {
    fn token(&self, n: &str) -> String {
        let file = self.dir.path().join(n).join("data/admin.token");
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// Status and body of one request; `token`: `None` for none.
    async fn ask(&self, n: &str, request: &str, token: Option<&str>, body: &str) -> (u16, String) {
        let addr = self.cluster.node(n).unwrap().at(self.cluster.ports.admin);
        let talk = async {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let token = token.map_or(String::new(), |t| format!("Authorization: Bearer {t}\r\n"));
            let head = format!(
                "{request} HTTP/1.1\r\nHost: {addr}\r\n{token}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = timeout(BOUND, talk).await.expect("an answer in time");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn json(&self, n: &str, request: &str) -> Value {
        let (status, body) = self.ask(n, request, None, "").await;
        assert_eq!(status, 200, "{request}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Asks again until `fine`.
    async fn until(&self, n: &str, request: &str, fine: impl Fn(&Value) -> bool) -> Value {
        let start = clock::now();
        let mut backoff = Backoff::quick();
        loop {
            let value = self.json(n, request).await;
            if fine(&value) {
                return value;
            }
            assert!(clock::now().since(start) < BOUND, "{n} {request} stays {value}");
            tokio::time::sleep(backoff.delay()).await;
        }
    }
}

fn alive(value: &Value) -> usize {
    let members = value.as_array().unwrap();
    members.iter().filter(|m| m["state"] == "alive").count()
}

#[tokio::test]
async fn one_call_switches_the_group_and_a_newcomer_takes_over() {
    let net = Net::new(80, "auth");
    let (_n1, n2) = (net.start("n1").await, net.start("n2").await);
    let follower = Follower::start(net.cluster.clone(), net.me(), NodeName::new("n1").unwrap());
    let mut view = follower.watch();
    let members = net.until("n1", "GET /list_mem", |v| alive(v) == 2).await;
    let keys: Vec<_> = members[0]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, ["addr", "id", "incarnation", "name", "state"]);
    let own = net.json("n2", "GET /list_self").await;
    assert_eq!((&own["name"], &own["addr"]), (&"n2".into(), &"127.0.1.81".into()));

    let order = r#"{"protocol":"gossip","suspicion":"enabled","suspicion_time":"1s"}"#;
    let token = net.token("n1");
    assert_eq!(token, net.token("n2"), "one for the cluster");
    for wrong in [
        None,
        Some(""),
        Some("x"),
        Some(&token[1..]),
        Some("0123456789abcdef0123456789abcdef"),
    ] {
        for (request, body) in [
            ("POST /switch", order),
            ("GET /set?fanout=4", ""),
            ("POST /set", order),
            ("GET /leave", ""),
        ] {
            let (status, why) = net.ask("n1", request, wrong, body).await;
            assert_eq!(status, 401, "{request}");
            assert!(why.contains("admin.token"), "{why}");
        }
    }
    assert_eq!(
        net.json("n1", "GET /get").await["version"],
        0,
        "nothing was changed"
    );

    let (status, body) = net.ask("n1", "POST /switch", Some(&token), order).await;
    assert_eq!(status, 200, "{body}");
    let gossip = |v: &Value| v["protocol"] == "gossip" && v["version"] == 1;
    net.until("n2", "GET /display_protocol", gossip).await;
    let n3 = net.start("n3").await;
    net.until("n3", "GET /get", gossip).await;

    // Detection goes on, and followers see it, in the new mode as in the old.
    timeout(BOUND, view.wait_for(|v| v.members.len() == 3))
        .await
        .unwrap()
        .unwrap();
    drop(n3);
    let failed = |v: &client::View| v.members.values().any(|m: &Member| m.state == State::Failed);
    timeout(BOUND, view.wait_for(failed)).await.unwrap().unwrap();

    let (status, body) = net
        .ask("n2", "GET /set?fanout=4&drop_rate=0.1", Some(&token), "")
        .await;
    assert_eq!(status, 200, "{body}");
    let new = net.until("n1", "GET /get", |v| v["version"] == 2).await;
    assert_eq!(
        (&new["fanout"], &new["drop_rate"], &new["by"]),
        (&4.into(), &0.1.into(), &"n2".into())
    );
    let (status, _) = net.ask("n1", "GET /leave", Some(&token), "").await;
    assert_eq!(status, 200);
    let left = |v: &Value| {
        v.as_array()
            .unwrap()
            .iter()
            .any(|m| m["name"] == "n1" && m["state"] == "left")
    };
    net.until("n2", "GET /list_mem", left).await;
    drop(n2);
}

#[tokio::test]
async fn bad_calls_are_told_what_is_wrong() {
    let net = Net::new(84, "auth");
    let _n1 = net.start("n1").await;
    net.until("n1", "GET /healthz", |v| v["status"] == "ok").await;
    let token = net.token("n1");
    for (request, body, status, word) in [
        ("GET /set", "", 400, "nothing to set"),
        ("GET /set?colour=red", "", 400, "there are protocol"),
        ("GET /set?fanout=4&period_ms=0", "", 400, "period_ms=0"),
        ("POST /switch", "", 400, "JSON object"),
        (
            "POST /switch",
            "{\"protocol\":\"smoke\"}",
            400,
            "gossip or pingack",
        ),
        ("POST /switch", "{\"fanout\":4}", 400, "/set"),
        (
            "POST /switch",
            "{\"protocol\":{}}",
            400,
            "neither text nor number",
        ),
        ("GET /nothing", "", 404, "/list_mem"),
        ("DELETE /get", "", 404, "/list_mem"),
    ] {
        let (got, why) = net.ask("n1", request, Some(&token), body).await;
        assert_eq!(got, status, "{request} {body}: {why}");
        assert!(why.contains(word), "{request} {body}: {why}");
    }
    let huge = "x".repeat(100_000);
    assert_eq!(net.ask("n1", "POST /set", Some(&token), &huge).await.0, 413);
    assert_eq!(net.json("n1", "GET /get").await["version"], 0, "all or nothing");
    let (status, metrics) = net.ask("n1", "GET /metrics", None, "").await;
    assert_eq!(status, 200);
    for line in [
        "memberd_members{state=\"alive\"} 1",
        "memberd_protocol_info{protocol=\"pingack\",suspicion=\"enabled\"} 1",
        "# TYPE memberd_sent_bytes_total counter",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in {metrics}");
    }
    assert_eq!(
        net.json("n1", "GET /display_suspects").await,
        Value::Array(vec![])
    );
}

#[tokio::test]
async fn without_its_port_membership_works_all_the_same() {
    let net = Net::new(88, "auth");
    let addr = net.cluster.node("n1").unwrap().at(net.cluster.ports.admin);
    let _taken = std::net::TcpListener::bind(addr).unwrap();
    let _n1 = net.start("n1").await;
    let n1 = NodeName::new("n1").unwrap();
    let changes = vec![("protocol".to_owned(), "gossip".to_owned())];
    let new = client::change(&net.cluster, &net.me(), &n1, changes)
        .await
        .unwrap();
    assert_eq!(
        (new.version, new.settings.protocol.to_string().as_str()),
        (1, "gossip")
    );
    let bad = vec![("protocol".to_owned(), "smoke".to_owned())];
    let refused = client::change(&net.cluster, &net.me(), &n1, bad).await;
    assert!(
        matches!(refused, Err(client::Error::Refused { .. })),
        "{refused:?}"
    );
    assert_eq!(
        client::configuration(&net.cluster, &net.me(), &n1).await.unwrap(),
        new
    );
}
