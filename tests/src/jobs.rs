//! Jobs that several tests run, over `in/data.txt` of [`crate::write_text`], and what awk makes of them.

pub const GREP_COUNT: [&str; 6] = ["2", "2", "grep", "--key word:0 static", "count", ""];
pub const GREP_COUNT_ORACLE: &str = r#"awk '/static/ { print $1 "\t" ++n[$1] }' data.txt"#;

pub const GREP_REPLACE: [&str; 6] = ["2", "2", "grep", "static", "replace", "static STATIC"];
pub const GREP_REPLACE_ORACLE: &str =
    r#"awk '/static/ { gsub(/static/, "STATIC"); print "in/data.txt:" NR "\t" $0 }' data.txt"#;

pub const THREE: [&str; 8] = [
    "3",
    "2",
    "grep",
    "static",
    "replace",
    "-F static S",
    "filter",
    "-d ' ' -c 0 -ne S",
];
pub const THREE_ORACLE: &str =
    r#"awk '/static/ { gsub(/static/, "S"); if ($1 != "S") print "in/data.txt:" NR "\t" $0 }' data.txt"#;

/// The leader's arguments: stages, source `in`, destination, exactly once or not, no scaling, a rate.
pub fn with_end<'a>(stages: &[&'a str], dest: &'a str, exactly_once: &'a str, rate: &'a str) -> Vec<&'a str> {
    let mut args = stages.to_vec();
    args.extend(["in", dest, exactly_once, "false", rate]);
    args
}
