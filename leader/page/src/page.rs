//! The page: one file, with nothing from elsewhere. It shows what comes over `/api/stream`; or, kept with `--report`, what is
//! embedded in it.

use super::state::State;

const PAGE: &str = include_str!("page.html");
/// Where a kept run's data go.
const MARK: &str = "null/*RUN*/";

/// The page as a leader serves it.
pub fn live() -> &'static str {
    PAGE
}

/// The page with a run in it, to be opened from a disk.
pub fn kept(state: &State) -> String {
    PAGE.replacen(MARK, &harmless(&state.full(0)), 1)
}

/// JSON that cannot end the script that it stands in.
fn harmless(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_place_for_data_and_nothing_from_elsewhere() {
        assert_eq!(PAGE.matches(MARK).count(), 1);
        for elsewhere in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!PAGE.contains(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn data_cannot_end_the_script() {
        let evil = "\"</script><script>alert(1)//\u{2028}\"";
        let text = harmless(evil);
        assert!(!text.contains('<') && !text.contains('\u{2028}'));
        assert_eq!(
            serde_json::from_str::<String>(&text).unwrap(),
            serde_json::from_str::<String>(evil).unwrap()
        );
    }
}
