//! What our HTTP servers for people have in common.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// A page loads nothing, from nowhere, and nobody frames it.
const SAYS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// A layer: a page from elsewhere whose name leads here (DNS rebinding) gets nothing.
pub async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    let mut response = match host.is_some_and(is_ours) {
        true => next.run(request).await,
        false => (
            StatusCode::MISDIRECTED_REQUEST,
            "ask for an address such as 127.0.0.1, or localhost\n",
        )
            .into_response(),
    };
    for (name, value) in SAYS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// An address, `localhost` or this machine's name; with or without a port.
fn is_ours(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let own = || std::fs::read_to_string("/proc/sys/kernel/hostname").is_ok_and(|own| own.trim_end() == bare);
    bare.parse::<IpAddr>().is_ok() || bare.eq_ignore_ascii_case("localhost") || own()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_elsewhere_are_not_ours() {
        for ours in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "LOCALHOST",
            "localhost:1",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for theirs in ["evil.example", "evil.example:8080", "localhost.evil.example", ""] {
            assert!(!is_ours(theirs), "{theirs}");
        }
    }
}
