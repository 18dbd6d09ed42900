use super::*;

use ops::Emit;

impl Config {
    /// A stateless task whose log holds the order alone.
    pub fn for_tests() -> Self {
        Self {
            epoch: Epoch(1),
            exactly_once: true,
            keeps: Keeps::Order,
            fixed: false,
            stateful: false,
            format: Format::Tsv,
            batch_bytes: 100,
            window_bytes: 1000,
            skip: BTreeSet::new(),
            sets_aside: false,
            mutant: Mutant::None,
        }
    }
}

/// When the log's first append began.
fn begin() -> Time {
    Time::from_millis(1000)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A source task with one record in its log, which took 1 ms, done at [`begin`] + 1 ms, and one to follow.
fn held(fixed: bool, age: Duration) -> Task {
    let config = Config {
        fixed,
        ..Config::for_tests()
    };
    let neighbours = Neighbours {
        downstream: vec![TaskId::new(1, 0)],
        ..Neighbours::default()
    };
    let mut task = Task::recover(config, &neighbours, &[]).unwrap();
    read(&mut task, 0);
    assert!(
        !task.take_records(begin()).is_empty(),
        "the first waits for nobody"
    );
    task.note_age(age);
    task.logged(begin() + ms(1), task.log_end());
    read(&mut task, 1);
    task
}

fn read(task: &mut Task, line: u64) {
    let run = SourceRun {
        creation: None,
        slice: 0,
        from: 10 * line,
        to: 10 * line + 10,
        first_line: line + 1,
        lines: 1,
        last: false,
        growing: false,
    };
    task.complete(Done {
        order: Order::Source(run),
        bytes_in: 10,
    });
}

/// How long after the last append the next record goes.
fn gathered(mut task: Task) -> Duration {
    let at = (0..200)
        .map(|n| begin() + ms(1 + n))
        .find(|at| !task.take_records(*at).is_empty());
    at.unwrap().since(begin() + ms(1))
}

#[test]
fn records_are_gathered_by_the_last_append_and_the_age_of_tuples() {
    assert_eq!(gathered(held(false, ms(0))), ms(2), "twice the last append");
    assert_eq!(
        gathered(held(false, ms(4))),
        ms(2),
        "young tuples do not wait less"
    );
    assert_eq!(gathered(held(false, ms(20))), ms(5), "a quarter of the age");
    assert_eq!(gathered(held(false, ms(5000))), ms(10), "never longer than this");
    assert_eq!(gathered(held(true, ms(0))), ms(50), "nobody waits for them");
}

/// A checkpoint that was due long ago goes with the next records: it must not hide when those go.
#[test]
fn a_deadline_that_has_passed_hides_no_other() {
    let task = held(true, ms(0));
    assert_eq!(
        task.log_deadline(begin() + ms(2)),
        Some(begin() + CHECKPOINT_EVERY)
    );
    assert_eq!(task.log_deadline(begin() + ms(30)), Some(begin() + ms(51)));
    assert_eq!(task.log_deadline(begin() + ms(60)), None);
}

/// What is open when records go to the log is closed with them, so it leaves when they are durable; it does not wait for a linger, nor
/// for the next append.
#[test]
fn an_append_closes_what_depends_on_it() {
    let mut task = held(false, ms(0));
    task.router(0).emit(b"key", b"value");
    read(&mut task, 2);
    assert!(task.has_open_output() && task.log_closes_outputs());
    let later = begin() + ms(100);
    assert!(!task.take_records(later).is_empty());
    assert!(!task.has_open_output());
    let durable = task.durable();
    assert!(
        task.output(0).next_chunk(durable).is_none(),
        "not before the log has it"
    );
    assert!(task.logged(later, task.log_end()));
    let durable = task.durable();
    assert!(task.output(0).next_chunk(durable).is_some());
}

/// A checkpoint goes with records that are appended anyway; for one of its own there is no hurry.
#[test]
fn checkpoints_ride_with_records() {
    let covered = |task: &mut Task, at: Time| {
        task.take_records(at);
        task.logged(at, task.log_end());
        task.checkpoint.pos
    };
    let mut task = held(false, ms(0));
    assert_eq!(
        covered(&mut task, begin() + ms(3)),
        1,
        "one was written 3 ms before"
    );
    assert_eq!(covered(&mut task, begin() + ms(8)), 1, "no records to ride with");
    assert_eq!(covered(&mut task, begin() + ms(10)), 2, "due by itself");
    read(&mut task, 2);
    assert_eq!(covered(&mut task, begin() + ms(16)), 3, "with the records");
}
