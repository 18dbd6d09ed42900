//! How the parts work together, input by input.

use ops::Emit;
use protocol::batch::{Batch, Builder};
use protocol::control::Route;
use protocol::task_log::SourceRun;

use super::checkpoints::CHECKPOINT_EVERY;
use super::inbox::Content;
use super::*;

impl Config {
    /// A stateless task whose log holds the order alone.
    pub fn for_tests() -> Self {
        Self {
            job: "job".parse().unwrap(),
            task: TaskId::new(0, 0),
            epoch: Epoch(1),
            exactly_once: true,
            keeps: Keeps::Order,
            follows: true,
            scales: false,
            stateful: false,
            format: Format::Tsv,
            batch_bytes: 100,
            linger: ms(1000),
            window_bytes: 1000,
            bounds: Bounds::default(),
            skip: BTreeSet::new(),
            sets_aside: false,
        }
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn begin() -> Time {
    Time::from_millis(1000)
}

const UP: TaskId = TaskId { stage: 0, index: 0 };
const DOWN: TaskId = TaskId { stage: 2, index: 0 };

/// A machine, and what it last wanted done.
struct Bench {
    task: Task,
    log: Vec<u8>,
}

impl Bench {
    /// A source with one receiver, which is connected. `fixed`: its files do not grow.
    fn source(fixed: bool) -> Self {
        let config = Config {
            follows: !fixed,
            ..Config::for_tests()
        };
        let neighbours = Neighbours {
            downstream: vec![TaskId::new(1, 0)],
            ..Neighbours::default()
        };
        Self::new(config, &neighbours)
    }

    /// A task between one sender and one receiver.
    fn between(config: Config) -> Self {
        let config = Config {
            task: TaskId::new(1, 0),
            ..config
        };
        let neighbours = Neighbours {
            upstream: vec![UP],
            downstream: vec![DOWN],
            ..Neighbours::default()
        };
        Self::new(config, &neighbours)
    }

    fn new(config: Config, neighbours: &Neighbours) -> Self {
        let task = Task::recover(config, neighbours, Stored::default(), begin()).unwrap();
        let mut bench = Self { task, log: vec![] };
        let standing = Standing::at(0);
        bench.give(begin(), Input::ReceiverConnected { output: 0, standing });
        bench
    }

    fn give(&mut self, at: Time, input: Input) -> Vec<Effect> {
        let mut effects = vec![];
        self.task.handle(at, input, &mut effects);
        effects
    }

    fn flush(&mut self, at: Time) -> Vec<Effect> {
        let mut effects = vec![];
        self.task.flush(at, &mut effects);
        for effect in &effects {
            if let Effect::AppendLog { records } = effect {
                self.log.extend_from_slice(records);
            }
        }
        effects
    }

    /// The log's appends are durable, and what is appended then, too.
    fn store(&mut self, at: Time) {
        while self
            .flush(at)
            .iter()
            .any(|e| matches!(e, Effect::AppendLog { .. }))
        {
            self.stored(at);
        }
    }

    fn stored(&mut self, at: Time) {
        let upto = self.log.len() as u64;
        self.give(at, Input::LogStored { upto });
    }

    /// Reads a line, and puts it out if `emits`.
    fn read(&mut self, line: u64, emits: bool) {
        assert_eq!(self.task.next_work(begin()), Some(Work::Source(None)));
        if emits {
            self.task.router(0).emit(b"key", b"value");
        }
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
        self.give(begin(), Input::SourceRead { run, bytes_in: 10 });
    }

    fn open(&mut self, epoch: u64, connection: ConnectionId, oldest: u64) -> Vec<Effect> {
        let open = Open {
            job: "job".parse().unwrap(),
            from: UP,
            epoch: Epoch(epoch),
            to: TaskId::new(1, 0),
            oldest,
        };
        self.give(begin(), Input::SenderConnected { connection, open })
    }

    fn frame(&mut self, connection: ConnectionId, start: u64, content: Content) -> Vec<Effect> {
        let item = Item {
            start,
            born_us: 0,
            content,
        };
        let input = Input::FrameReceived {
            connection,
            from: UP,
            item,
        };
        self.give(begin(), input)
    }
}

fn tuples(many: usize) -> Content {
    Content::Tuples(batch(many))
}

fn batch(many: usize) -> Batch {
    let mut builder = Builder::new();
    (0..many).for_each(|_| builder.push(b"k", b"v"));
    builder.take()
}

fn frames(effects: &[Effect]) -> usize {
    let is_frame = |e: &&Effect| matches!(e, Effect::SendFrame { .. });
    effects.iter().filter(is_frame).count()
}

/// What is open when records go to the log is closed with them, so it leaves when they are durable; it does not wait for a linger, nor
/// for the next append.
#[test]
fn an_append_closes_what_depends_on_it() {
    let mut bench = Bench::source(false);
    bench.read(0, true);
    let effects = bench.flush(begin());
    assert!(
        matches!(effects[..], [Effect::AppendLog { .. }]),
        "not before the log has it: {effects:?}"
    );
    bench.stored(begin());
    assert_eq!(frames(&bench.flush(begin())), 1);
}

#[test]
fn outputs_that_follow_from_the_input_alone_wait_for_no_log() {
    let mut bench = Bench::source(true);
    bench.read(0, true);
    bench.flush(begin());
    assert_eq!(frames(&bench.flush(begin() + ms(1000))), 1, "after the linger");
}

/// A checkpoint that was due long ago goes with the next records: it must not hide when those go.
#[test]
fn a_deadline_that_has_passed_hides_no_other() {
    let mut bench = Bench::source(true);
    bench.read(0, false);
    bench.flush(begin());
    bench.give(begin() + ms(1), Input::LogStored { upto: u64::MAX });
    bench.read(1, false);
    let deadline = |after| bench.task.deadline(begin() + ms(after));
    assert_eq!(deadline(2), Some(begin() + CHECKPOINT_EVERY));
    assert_eq!(deadline(30), Some(begin() + ms(51)));
    assert_eq!(deadline(60), None);
}

/// Stage 1 is taken back to one task when its source has long ended: who is taken out may be gone, nobody would
/// acknowledge a second end mark.
#[test]
fn who_has_ended_owes_nothing_to_a_receiver_that_is_taken_out() {
    let both = [TaskId::new(1, 0), TaskId::new(1, 1)];
    let neighbours = Neighbours {
        downstream: both.to_vec(),
        ..Neighbours::default()
    };
    let mut bench = Bench::new(Config::for_tests(), &neighbours);
    let now = begin() + CHECKPOINT_EVERY;
    assert_eq!(bench.task.next_work(now), Some(Work::Source(None)));
    bench.give(now, Input::SourceEnded);
    for output in 0..2 {
        bench.give(now, Input::ReceiverAcknowledged { output, upto: 1 });
    }
    bench.store(now);
    assert!(bench.task.is_finished());

    let route = Route {
        version: 1,
        tasks: both[..1].to_vec(),
    };
    bench.give(now, Input::RoutingChanged(route.clone()));
    assert_eq!(bench.task.next_work(now), Some(Work::Note));
    let effects = bench.give(now, Input::WorkDone { bytes_in: 0 });
    assert_eq!(effects, [Effect::Routed(route)]);
    assert_eq!(bench.task.next_work(now), None);
    bench.store(now);
    assert!(bench.task.is_finished());
    assert_eq!(bench.task.routed(), 1);
}

/// The fence between tasks: `docs/exactly-once.md`.
#[test]
fn a_sender_is_refused_once_a_newer_process_of_it_has_connected() {
    let mut bench = Bench::between(Config::for_tests());
    let accepted = bench.open(2, 7, 0);
    let standing = Standing::at(0);
    assert!(matches!(accepted[0], Effect::Accept { connection: 7, standing: s } if s == standing));
    let refused = bench.open(1, 8, 0);
    let why = "s0t0 runs as epoch 2 now";
    assert!(
        matches!(&refused[..], [Effect::Refuse { connection: 8, refusal, .. }] if refusal.to_string() == why),
        "{refused:?}"
    );
    let replaced = bench.open(3, 9, 0);
    let old = Effect::Disconnect {
        connection: 7,
        from: UP,
        gap: false,
    };
    assert_eq!(replaced[0], old);
    bench.frame(7, 0, tuples(3));
    assert_eq!(
        bench.task.backlog_tuples(),
        0,
        "it was under way on the old connection"
    );
    bench.frame(9, 0, tuples(3));
    assert_eq!(bench.task.backlog_tuples(), 3);
}

#[test]
fn a_process_that_is_refused_ends() {
    let mut bench = Bench::between(Config::for_tests());
    let (to, why) = (DOWN, "s1t0 runs as epoch 2 now".to_owned());
    let effects = bench.give(begin(), Input::ReceiverRefused { to, why });
    assert!(matches!(&effects[..], [Effect::Fenced { why }] if why.contains("epoch 2")));
}

#[test]
fn a_gap_closes_the_connection_and_a_repeat_is_acknowledged_again() {
    let mut bench = Bench::between(Config::for_tests());
    bench.open(1, 7, 0);
    assert_eq!(bench.frame(7, 0, tuples(2)), []);
    let again = Effect::Acknowledge {
        connection: 7,
        upto: 0,
    };
    assert_eq!(bench.frame(7, 0, tuples(2)), [again]);
    let closed = Effect::Disconnect {
        connection: 7,
        from: UP,
        gap: true,
    };
    assert_eq!(bench.frame(7, 3, tuples(2)), [closed]);
    assert_eq!(bench.frame(7, 2, tuples(2)), [], "it is closed");
    assert_eq!(bench.task.backlog_tuples(), 2);
}

#[test]
fn a_connection_for_another_task_is_refused() {
    let mut bench = Bench::between(Config::for_tests());
    let open = Open {
        job: "job".parse().unwrap(),
        from: UP,
        epoch: Epoch(1),
        to: DOWN,
        oldest: 0,
    };
    let effects = bench.give(begin(), Input::SenderConnected { connection: 7, open });
    assert!(
        matches!(&effects[..], [Effect::Refuse { refusal, .. }] if refusal.to_string() == "this is s1t0 of job job")
    );
}

/// From a sender's frame to its acknowledgement: the order record first, then the outputs, then the checkpoint.
#[test]
fn a_unit_of_work_goes_all_the_way() {
    let mut bench = Bench::between(Config::for_tests());
    bench.open(1, 7, 0);
    bench.frame(7, 0, tuples(2));
    let work = bench.task.next_work(begin());
    let expected = Work::Tuples {
        from: UP,
        start: 0,
        born_us: 0,
        batch: batch(2),
    };
    assert_eq!(work, Some(expected));
    bench.task.router(0).emit(b"key", b"value");
    bench.give(begin(), Input::WorkDone { bytes_in: 4 });
    assert_eq!(frames(&bench.flush(begin())), 0);
    bench.stored(begin());
    assert_eq!(frames(&bench.flush(begin())), 1);
    bench.give(begin(), Input::ReceiverAcknowledged { output: 0, upto: 1 });
    let later = begin() + CHECKPOINT_EVERY;
    assert!(
        matches!(bench.flush(later)[..], [Effect::AppendLog { .. }]),
        "the checkpoint"
    );
    bench.stored(later);
    let acknowledged = Effect::Acknowledge {
        connection: 7,
        upto: 2,
    };
    assert_eq!(bench.flush(later), [acknowledged]);
}

/// What a process left behind is all that the next one has.
#[test]
fn the_next_process_consumes_in_the_logged_order() {
    let mut bench = Bench::between(Config::for_tests());
    bench.open(1, 7, 0);
    for start in [0, 2] {
        bench.frame(7, start, tuples(2));
    }
    for _ in 0..2 {
        assert!(bench.task.next_work(begin()).is_some());
        // Nobody acknowledges it: there is no checkpoint.
        bench.task.router(0).emit(b"key", b"value");
        bench.give(begin(), Input::WorkDone { bytes_in: 4 });
    }
    bench.flush(begin());
    let neighbours = Neighbours {
        upstream: vec![UP],
        downstream: vec![DOWN],
        ..Neighbours::default()
    };
    let config = Config {
        task: TaskId::new(1, 0),
        epoch: Epoch(2),
        ..Config::for_tests()
    };
    let stored = Stored {
        log: &bench.log,
        ..Stored::default()
    };
    let task = Task::recover(config, &neighbours, stored, begin()).unwrap();
    let mut next = Bench { task, log: vec![] };
    let accepted = next.open(1, 1, 0);
    let standing = Standing { have: 0, needs: 4 };
    assert_eq!(
        accepted[0],
        Effect::Accept {
            connection: 1,
            standing
        }
    );
    next.frame(1, 0, tuples(3));
    assert!(
        matches!(next.task.next_work(begin()), Some(Work::Tuples { start: 0, batch, .. }) if batch.len() == 2)
    );
    next.give(begin(), Input::WorkDone { bytes_in: 4 });
    assert_eq!(next.task.next_work(begin()), None, "the log says two at once");
    assert_eq!(next.frame(1, 3, tuples(3)), []);
    assert!(
        matches!(next.task.next_work(begin()), Some(Work::Tuples { start: 2, batch, .. }) if batch.len() == 2)
    );
}

/// What was trimmed is told by a base; a log that begins with anything else, or with nothing, is refused.
#[test]
fn a_trimmed_log_begins_with_its_base() {
    let mut config = Config::for_tests();
    config.bounds.log_every = 1;
    let neighbours = Neighbours {
        downstream: vec![TaskId::new(1, 0)],
        ..Neighbours::default()
    };
    let mut bench = Bench::new(config.clone(), &neighbours);
    let mut trimmed = None;
    for line in 1..6 {
        bench.read(line, false);
        for _ in 0..3 {
            for effect in bench.flush(begin() + ms(20 * line)) {
                if let Effect::TrimLog { upto } = effect {
                    trimmed = Some(upto);
                }
            }
            bench.stored(begin() + ms(20 * line));
        }
    }
    let at = trimmed.expect("the log has grown") as usize;
    assert!(at > 0 && at < bench.log.len());
    let again = |log: &[u8], log_begin| {
        let stored = Stored {
            log,
            log_begin,
            ..Stored::default()
        };
        Task::recover(config.clone(), &neighbours, stored, begin())
    };
    let task = again(&bench.log[at..], at as u64).unwrap();
    assert_eq!(task.now().source, bench.task.now().source);
    let whole = again(&bench.log, 0).unwrap();
    assert_eq!(whole.now().source, task.now().source);
    assert!(matches!(again(&bench.log, 7), Err(Error::LogBegin { at: 7, .. })));
    assert!(matches!(again(&[], 7), Err(Error::LogBegin { at: 7, .. })));
}
