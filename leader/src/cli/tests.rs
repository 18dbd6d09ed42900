//! Command lines that work, and what is said of those that do not.

use super::*;
use proptest::prelude::*;

fn run(line: &str) -> Result<Request, Error> {
    let words = shell_words::split(line).expect("the test's own line");
    match parse(std::iter::once("leader".to_owned()).chain(words))? {
        Parsed::Request(request) => Ok(*request),
        Parsed::Print(e) => panic!("{e}"),
    }
}

fn start(line: &str) -> Result<(Request, Start), Error> {
    let request = run(line)?;
    match request.what.clone() {
        What::Start(start) => Ok((request, start)),
        _ => panic!("{line} starts nothing"),
    }
}

fn refused(line: &str) -> String {
    run(line).expect_err(line).to_string()
}

#[test]
fn the_example_works() {
    let (_, r) = start(EXAMPLE.strip_prefix("leader ").unwrap()).unwrap();
    assert_eq!(
        (r.stages.len(), r.tasks_per_stage, r.exactly_once, r.rate),
        (2, 3, true, 0)
    );
    assert_eq!(r.stages[1].args, ["static", "STATIC"]);
    assert_eq!((r.src.as_str(), r.dest.as_str()), ("src/code", "out.tsv"));
}

#[test]
fn options_come_first_and_hyphens_stay_in_operator_arguments() {
    let (all, r) =
        start("--console none --job j1 --append 1 1 filter '-c 3 -eq -7' dir/ out true false 500").unwrap();
    assert_eq!(r.stages[0].args, ["-c", "3", "-eq", "-7"]);
    assert_eq!(
        (all.console, r.if_exists, r.rate),
        (Console::None, IfExists::Append, 500)
    );
    assert_eq!(r.src, "dir");
    let (_, r) = start("1 1 grep -v d out true false").unwrap();
    assert_eq!(r.stages[0].args, ["-v"]);
    let (_, r) = start("1 1 identity '' d out true false 5 1 9").unwrap();
    assert!(r.stages[0].args.is_empty());
}

#[test]
fn stages_that_keep_state_are_scaled_only_when_asked_and_where_that_is_exact() {
    let stateful = |line: &str| start(line).unwrap().1.scaling.unwrap().stateful;
    assert!(stateful("--scale-stateful 1 1 count '' d out true true 500 1 9"));
    assert!(!stateful("1 1 count '' d out true true 500 1 9"));
    for (line, says) in [
        (
            "--scale-stateful 1 1 count '' d out true false",
            "autoscale_enabled true",
        ),
        (
            "--scale-stateful 1 1 count '' d out false true 500 1 9",
            "exactly_once to true",
        ),
        ("--scale-stateful --resume j", "as it was planned"),
    ] {
        let e = refused(line);
        assert!(e.contains("--scale-stateful") && e.contains(says), "{line}: {e}");
    }
}

#[test]
fn a_job_is_resumed_by_its_name_with_what_still_applies() {
    let r = run("--resume j --console none --max-restarts 9 --poison skip --launcher local").unwrap();
    assert_eq!((r.console, r.launcher), (Console::None, LauncherKind::Local));
    let What::Resume(resume) = r.what else { panic!() };
    assert_eq!(
        resume,
        Resume {
            job: JobName::new("j").unwrap(),
            op_timeout: None,
            max_restarts: Some(9),
            poison: Some(Poison::Skip),
            standbys: None,
        }
    );
}

#[test]
fn following_and_the_care_for_operators_have_their_defaults() {
    let (_, r) = start("1 1 identity '' d out true false").unwrap();
    assert_eq!(
        (r.follow, r.poison, r.productions, r.max_restarts),
        (false, Poison::Fail, Productions::Auto, 5)
    );
    let (_, r) =
        start("--follow --poison skip --productions strong 1 1 identity '' d out false false").unwrap();
    assert_eq!(
        (r.follow, r.poison, r.productions),
        (true, Poison::Skip, Productions::Strong)
    );
}

#[test]
fn mistakes_name_the_argument() {
    for (line, says) in [
        ("", "no arguments"),
        ("--colour 1 1", "not an option"),
        ("x 1 identity '' d out true false", "argument 1 (Nstages) is `x`"),
        ("0 1 d out true false", "argument 1 (Nstages) is `0`"),
        ("-1 1 d out true false", "argument 1 (Nstages) is `-1`"),
        (
            "1 0 identity '' d out true false",
            "argument 2 (Ntasks_per_stage)",
        ),
        ("1 1 identity d out true false", "op1_args = d"),
        ("1 1 identity '' d out true", "autoscale_enabled: missing"),
        ("1 1 identity '' d out true false 1 2 3 4", "too many: 4"),
        ("1 1 identity '' d out true false 1 2", "there are 8 arguments"),
        (
            "1 1 identity '' d out yes false",
            "argument 7 (exactly_once) is `yes`: it must be true or false",
        ),
        (
            "1 1 identity '' d out true true 9",
            "argument 8 (autoscale_enabled) is `true`: with autoscaling INPUT_RATE, LW and HW",
        ),
        (
            "1 1 identity '' d out true true 9 3 3",
            "argument 11 (HW) is `3`: it must be more than LW, which is 3",
        ),
        ("1 1 identity '' d out true false many", "argument 9 (INPUT_RATE)"),
        ("1 1 identity '' d out true false 1 x 3", "argument 10 (LW)"),
        ("1 1 identity '' d d/out true false", "inside the source"),
        ("1 1 identity '' d d true false", "inside the source"),
        (
            "1 1 identity '' d jobs/j/s1t0.log true false",
            "argument 6 (hydfs_dest)",
        ),
        ("1 1 identity '' d ops/x true false", "RainStorm's own"),
        ("1 1 identity '' d out.poison true false", "set tuples aside"),
        ("1 1 identity '' jobs out true false", "argument 5 (hydfs_src)"),
        (
            "1 1 identity '' /d out true false",
            "argument 5 (hydfs_src) is `/d`",
        ),
        ("1 1 identity '' d ../out true false", "argument 6 (hydfs_dest)"),
        ("1 1 '' '' d out true false", "argument 3 (op1_exe)"),
        ("1 1 grep \"it's\" d out true false", "argument 4 (op1_args)"),
        ("--resume a/b", "--resume: job name `a/b`"),
        (
            "--resume j 1 1 identity '' d out true false",
            "takes no arguments, the job's plan is in its journal; leave out: 1 1 identity",
        ),
        (
            "--resume j --follow",
            "--follow: --resume takes the job up as it was planned",
        ),
        ("--resume j --job k", "--job: "),
        ("--resume j --format tsv", "--format: "),
        ("--resume j --dry-run", "--dry-run: "),
        ("--resume j --op-timeout 0", "--op-timeout"),
        ("--resume j --describe-timeout 9", "--describe-timeout: "),
        (
            "--describe-timeout 0 1 1 identity '' d out true false",
            "--describe-timeout",
        ),
        (
            "--poison skip 1 1 identity '' a.poison a true false",
            "argument 6 (hydfs_dest) is `a`: tuples set aside would go to `a.poison`, which is the source",
        ),
        ("--op-timeout 0 1 1 identity '' d out true false", "--op-timeout"),
        (
            "--op-timeout NaN 1 1 identity '' d out true false",
            "--op-timeout",
        ),
        ("--job a/b 1 1 identity '' d out true false", "--job"),
        (
            "--max-tasks 2 1 3 identity '' d out true false",
            "--max-tasks allows 2",
        ),
    ] {
        let said = refused(line);
        assert!(said.contains(says), "{line}: {said}");
    }
}

proptest! {
    #[test]
    fn any_words_are_read_or_refused_without_a_panic(words in prop::collection::vec(".{0,12}", 0..20), n in 0u16..9) {
        let all = [vec!["leader".to_owned(), n.to_string()], words].concat();
        let _ = parse(all);
    }

    #[test]
    fn operator_arguments_round_trip(args in prop::collection::vec("[^\0]{0,10}", 0..5)) {
        let word = shell_words::join(&args);
        let line = ["leader", "1", "2", "op", &word, "d", "out", "true", "false"];
        let Ok(Parsed::Request(request)) = parse(line) else { return Err(TestCaseError::fail("refused")) };
        let What::Start(r) = request.what else { return Err(TestCaseError::fail("resumes")) };
        prop_assert_eq!(&r.stages[0].args, &args);
    }
}

#[test]
fn jobs_are_left_running_here_or_elsewhere() {
    let job = "1 1 identity '' d out true false";
    let asked = |options: &str| {
        let (request, _) = start(&format!("{options} {job}")).unwrap();
        (request.detach, request.on, request.console)
    };
    assert_eq!(asked(""), (None, None, Console::All));
    assert_eq!(asked("--detach"), (Some(Detach::Starter), None, Console::All));
    let stays = (Some(Detach::Leader), None, Console::None);
    assert_eq!(asked("--detached --detach"), stays);
    assert_eq!(asked("--detach --on any"), (None, Some(On::Any), Console::All));
    let there = Some(On::Node("n2".into()));
    assert_eq!(asked("--detach --on n2"), (None, there, Console::All));
    assert!(refused(&format!("--detach --dry-run {job}")).contains("--detach"));
    assert!(refused("--resume j --detach --on n2").contains("--on"));
}

#[test]
fn standbys_are_counted_and_started_by_leaders() {
    let (_, asked) = start("--standbys 2 1 1 identity '' d out true false").unwrap();
    assert_eq!(asked.standbys, Some(2));
    assert!(refused("--standbys 8 1 1 identity '' d out true false").contains("0 to 7"));
    let request = run("--node n2 --job j --standby 127.0.0.11:15000 --base 1000 --launcher ssh").unwrap();
    let waits = StandBy {
        job: JobName::new("j").unwrap(),
        leader: "127.0.0.11:15000".parse().unwrap(),
        base: Epoch(1000),
    };
    assert_eq!(
        (request.what, request.console),
        (What::StandBy(waits), Console::None)
    );
}
