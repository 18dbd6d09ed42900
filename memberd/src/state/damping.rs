//! A member that goes and comes every few seconds costs its subscribers more than it is worth: data is moved, tasks are
//! placed, and moved again. So, as routers do with flapping routes (RFC 2439), each return of a member costs it points,
//! which halve every [`HALF_LIFE`]; above [`HOLD`] its returns are not published until it has fewer than [`RELEASE`].
//! Meanwhile subscribers and listings have it as `failed` under the incarnation that they knew, and that one is indeed
//! over. The protocol itself sees all: a damped member is probed, believed and helped like any other.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::Time;
use common::ids::NodeName;

use super::table::{Fact, State};

const HALF_LIFE: Duration = Duration::from_secs(10);
const HOLD: f64 = 4.0;
const RELEASE: f64 = 2.0;
/// Points do not grow without end: a member that has become steady is back after 16 s at most.
const MOST: f64 = 6.0;
/// A starting process takes the wall clock in milliseconds, a refutation the next few numbers: a jump by more than this
/// is a restart.
const RESTART: u64 = 64;

#[derive(Debug, Default)]
pub struct Damping {
    points: BTreeMap<NodeName, Points>,
    /// What the subscribers believe of those that are held back.
    held: BTreeMap<NodeName, Fact>,
}

#[derive(Debug)]
struct Points {
    points: f64,
    at: Time,
}

impl Points {
    fn now(&self, now: Time) -> f64 {
        self.points * 0.5f64.powf(now.since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64())
    }

    fn falls_below(&self, bound: f64) -> Time {
        let halvings = (self.points / bound).log2().max(0.0);
        self.at + HALF_LIFE.mul_f64(halvings)
    }
}

impl Damping {
    /// A member's fact has changed from `before` to `fact`. Returns what the subscribers are told, and what they knew.
    pub fn publish(&mut self, now: Time, fact: Fact, before: Option<Fact>) -> Option<(Fact, Option<Fact>)> {
        let Some(was) = before else {
            return Some((fact, None));
        };
        let back = was.state >= State::Failed && fact.state < State::Failed;
        if back || fact.incarnation > was.incarnation + RESTART {
            let entry = self
                .points
                .entry(fact.name.clone())
                .or_insert(Points { points: 0.0, at: now });
            let points = (entry.now(now) + 1.0).min(MOST);
            *entry = Points { points, at: now };
            if points > HOLD && !self.held.contains_key(&fact.name) && fact.state < State::Failed {
                // Its former incarnation is over, whether anybody had noticed or not.
                let over = Fact {
                    state: was.state.max(State::Failed),
                    ..was.clone()
                };
                self.held.insert(fact.name.clone(), over.clone());
                return (over != was).then_some((over, Some(was)));
            }
        }
        match self.held.get(&fact.name) {
            Some(held) if fact.state == State::Left => {
                let held = held.clone();
                self.held.remove(&fact.name);
                Some((fact, Some(held)))
            }
            Some(_) => None,
            None => Some((fact, Some(was))),
        }
    }

    /// Whose time of being held back is over, with what the subscribers believe of it.
    pub fn take_released(&mut self, now: Time) -> Vec<(NodeName, Fact)> {
        let due: Vec<NodeName> = self
            .held
            .keys()
            .filter(|n| self.release_at(n) <= now)
            .cloned()
            .collect();
        due.into_iter()
            .filter_map(|n| self.held.remove(&n).map(|held| (n, held)))
            .collect()
    }

    pub fn deadline(&self) -> Option<Time> {
        self.held.keys().map(|n| self.release_at(n)).min()
    }

    fn release_at(&self, name: &NodeName) -> Time {
        self.points
            .get(name)
            .map_or(Time::ZERO, |p| p.falls_below(RELEASE))
    }

    /// What is published of a member that is held back.
    pub fn held(&self, name: &NodeName) -> Option<&Fact> {
        self.held.get(name)
    }

    pub fn count(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(incarnation: u64, state: State) -> Fact {
        Fact {
            name: NodeName::new("n1").unwrap(),
            incarnation,
            state,
        }
    }

    /// What subscribers are told while `n1` restarts every `every` for `times` times, and for a minute afterwards.
    fn told(every: Duration, times: u64, failed_between: bool) -> Vec<Fact> {
        let mut damping = Damping::default();
        let mut now = Time::from_millis(1000);
        let mut raw = fact(1000, State::Alive);
        let mut published: Vec<Fact> = vec![raw.clone()];
        let tell =
            |published: &mut Vec<Fact>, damping: &mut Damping, now: Time, raw: &mut Fact, fact: Fact| {
                let before = std::mem::replace(raw, fact.clone());
                if let Some((fact, before)) = damping.publish(now, fact, Some(before)) {
                    assert_eq!(
                        before.as_ref(),
                        published.last(),
                        "subscribers are told every step"
                    );
                    assert!(published.last().is_none_or(|p| fact.beats(p)));
                    published.push(fact);
                }
            };
        for i in 1..=times {
            if failed_between {
                let gone = fact(raw.incarnation, State::Failed);
                tell(&mut published, &mut damping, now, &mut raw, gone);
            }
            now = now + every;
            tell(
                &mut published,
                &mut damping,
                now,
                &mut raw,
                fact(1000 + i * 2000, State::Alive),
            );
            let released = damping.take_released(now);
            assert!(released.is_empty() || every > HALF_LIFE);
        }
        let release = damping.deadline();
        if let Some(at) = release {
            assert!(at.since(now) <= Duration::from_secs(17));
            assert!(damping.take_released(at - Duration::from_millis(1)).is_empty());
            assert_eq!(damping.take_released(at).len(), 1);
            published.push(raw.clone());
        }
        assert_eq!(published.last(), Some(&raw), "in the end they know the truth");
        published
    }

    #[test]
    fn a_member_that_flaps_is_held_back_until_it_is_steady() {
        for failed_between in [true, false] {
            let few = told(Duration::from_secs(2), 30, failed_between).len();
            let many = told(Duration::from_secs(2), 300, failed_between).len();
            assert_eq!(few, many, "no more changes, however long it goes on");
            assert!(many <= 16, "{many}");
        }
    }

    #[test]
    fn ordinary_restarts_are_told_at_once() {
        assert_eq!(told(Duration::from_secs(8), 20, true).len(), 41);
        assert_eq!(told(Duration::from_secs(1), 3, false).len(), 4);
    }

    #[test]
    fn a_goodbye_is_told_even_of_one_held_back() {
        let mut damping = Damping::default();
        let now = Time::from_millis(1000);
        let mut raw = fact(0, State::Alive);
        for i in 1..10 {
            let new = fact(i * 1000, State::Alive);
            damping.publish(now, new.clone(), Some(raw));
            raw = new;
        }
        assert_eq!(damping.count(), 1);
        let left = fact(9000, State::Left);
        let (told, _) = damping.publish(now, left.clone(), Some(raw)).unwrap();
        assert_eq!((told, damping.count()), (left, 0));
    }
}
