//! A seeded plan of kills, and how each is carried out.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::Options;
use super::watch::{Hit, Watch};
use crate::chaos::random::Random;
use crate::chaos::recovery::time_of_day;
use crate::procs::signal;
use crate::{Cluster, kill_process};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Task,
    Operator,
    Node,
    Daemon(&'static str),
    Leader,
}

/// How many of each struck.
#[derive(Debug, Clone, Copy, Default)]
pub struct Struck {
    pub tasks: u32,
    pub operators: u32,
    pub nodes: u32,
    pub daemons: u32,
    pub leaders: u32,
}

impl Struck {
    pub fn all(self) -> u32 {
        self.tasks + self.operators + self.nodes + self.daemons + self.leaders
    }
}

#[derive(Debug)]
pub struct Plan {
    random: Random,
    leaders: bool,
    nodes: bool,
    pause: Duration,
}

impl Plan {
    pub fn new(options: &Options) -> Self {
        Self {
            random: Random::new(options.seed),
            leaders: options.leaders,
            nodes: options.nodes,
            pause: options.pause,
        }
    }

    /// How long to wait before the next fault.
    pub fn pause(&mut self) -> Duration {
        self.pause * self.random.between(50, 150) as u32 / 100
    }

    pub fn draw(&mut self) -> Fault {
        let (node, leader) = (u64::from(self.nodes), u64::from(self.leaders));
        self.random.weighted(&[
            (60, Fault::Task),
            (10, Fault::Operator),
            (10 * node, Fault::Node),
            (5 * node, Fault::Daemon("hydfsd")),
            (3 * node, Fault::Daemon("memberd")),
            (12 * leader, Fault::Leader),
        ])
    }

    /// Carries it out on one of these jobs, or on a node; a node is back when this returns. `false`: there was nothing to hit.
    pub fn strike(
        &mut self,
        fault: Fault,
        cluster: &Cluster,
        jobs: &[String],
        watch: &mut Watch,
        struck: &mut Struck,
    ) -> Result<bool> {
        let random = &mut self.random;
        let job = random.pick(jobs).clone();
        let node = format!("n{}", random.between(1, cluster.nodes() as u64));
        let down = Duration::from_millis(random.between(2000, 12_000));
        match fault {
            Fault::Task => {
                let workers = cluster.workers(&job)?;
                let Some(victim) = workers.get(random.between(0, workers.len().max(1) as u64 - 1) as usize)
                else {
                    return Ok(false);
                };
                let (at, epoch) = (time_of_day(), victim.epoch);
                // One that has just ended by itself was not hit.
                if signal(victim.pid, Signal::SIGKILL).is_err() {
                    return Ok(false);
                }
                watch.hit(&job, &victim.task, Hit { epoch, at });
                struck.tasks += 1;
            }
            Fault::Operator => {
                let operators: Vec<_> = jobs
                    .iter()
                    .filter_map(|job| cluster.operators(job).ok())
                    .flatten()
                    .collect();
                if operators.is_empty() || kill_process(random.pick(&operators).pid).is_err() {
                    return Ok(false);
                }
                struck.operators += 1;
            }
            Fault::Node => {
                cluster.kill_nodes(&[&node])?;
                struck.nodes += 1;
                std::thread::sleep(down);
                cluster.script(&["start-node", &node])?;
            }
            Fault::Daemon(program) => {
                kill_process(cluster.daemon(&node, program)?)?;
                struck.daemons += 1;
                std::thread::sleep(down);
                cluster.script(&["start-node", &node])?;
            }
            Fault::Leader => {
                let leader = cluster.led(&job)?;
                if leader.is_none_or(|led| kill_process(led.pid).is_err()) {
                    return Ok(false);
                }
                struck.leaders += 1;
            }
        }
        Ok(true)
    }
}
