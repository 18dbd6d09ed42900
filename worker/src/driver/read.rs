//! A source task's reading: what is read when, and what the leader says of it.

use common::clock::{self, Time};
use protocol::control::{ToLeader, ToWorker};
use protocol::task_log::SourceRun;

use super::End;
use super::engine::Engine;
use super::pace::Pace;
use super::work::Step;
use crate::source::{self, Source};
use crate::task::Input;

pub struct Reader {
    /// Away while it reads.
    source: Option<Source>,
    pub pace: Pace,
    /// What the leader said to a source that follows, and it has not heard yet.
    unheard: Vec<ToWorker>,
    pub first_read_us: u64,
}

impl Reader {
    pub fn new(source: Source, pace: Pace) -> Self {
        Self {
            source: Some(source),
            pace,
            unheard: Vec::new(),
            first_read_us: 0,
        }
    }

    /// The source may be reading just now: it hears it before it reads again.
    pub fn hear(&mut self, message: ToWorker) {
        self.unheard.push(message);
    }

    /// When to read again.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let pause = self.source.as_ref().and_then(Source::pause);
        let due = [self.pace.next(now), pause.map(|pause| now + pause)];
        due.into_iter().flatten().min()
    }
}

impl Engine {
    /// Reads a block of lines and emits them: exactly `replay`, or what may be read now.
    pub(super) async fn read(&mut self, replay: Option<SourceRun>) -> Result<Step, End> {
        let place = self.task.now().source.clone();
        let Some((reader, mut source)) = self.reader.as_mut().and_then(|r| {
            let source = r.source.take()?;
            Some((r, source))
        }) else {
            return self.found_nothing();
        };
        for message in reader.unheard.drain(..) {
            source.hear(message);
        }
        let most = match replay {
            Some(_) => u64::MAX,
            None if source.is_end(&place) => {
                reader.source = Some(source);
                self.give(Input::SourceEnded)?;
                return Ok(Step::Worked);
            }
            None => reader.pace.allowed(clock::now()),
        };
        let block = match most {
            0 => None,
            most => self.beside(source.next(&place, most, replay)).await??,
        };
        let Some(reader) = &mut self.reader else {
            return Ok(Step::Idle);
        };
        let Some(block) = block else {
            reader.source = Some(source);
            if most > 0 {
                reader.pace.rest();
                return self.found_nothing();
            }
            self.give(Input::SourcePaced)?;
            return Ok(Step::Idle);
        };
        if reader.first_read_us == 0 {
            reader.first_read_us = clock::unix_micros();
        }
        if replay.is_none() {
            reader.pace.took(block.run.lines);
        }
        let (file, small) = (source.file(block.run.slice), source.is_small(block.run.slice));
        reader.source = Some(source);
        if let Some(encoding) = block.wide_encoding() {
            self.control.to_leader.tell(ToLeader::WideText {
                file: String::from_utf8_lossy(&file).into_owned(),
                encoding: encoding.to_owned(),
            })?;
        }
        source::emit(&block, &file, small, &mut self.task.router(clock::unix_micros()));
        let (run, bytes_in) = (block.run, block.data.len() as u64);
        self.give(Input::SourceRead { run, bytes_in })?;
        Ok(Step::Worked)
    }

    fn found_nothing(&mut self) -> Result<Step, End> {
        self.give(Input::SourceDry)?;
        Ok(Step::Idle)
    }
}
