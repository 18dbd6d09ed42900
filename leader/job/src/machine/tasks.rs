//! A job's tasks, and which connection is whose.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use common::clock::Time;
use common::ids::{Epoch, NodeName, TaskId};
use common::lateness::patience;

use super::effects::ConnId;
use super::task::{State, Task};

#[derive(Default)]
pub(super) struct TaskTable {
    /// Only ever added to: one that was taken out of its stage stays, as retired.
    tasks: BTreeMap<TaskId, Task>,
    /// Those that are attached; as the tasks' states have it, by connection.
    conns: BTreeMap<ConnId, (TaskId, Epoch)>,
}

impl FromIterator<Task> for TaskTable {
    fn from_iter<T: IntoIterator<Item = Task>>(tasks: T) -> Self {
        Self {
            tasks: tasks.into_iter().map(|task| (task.id, task)).collect(),
            conns: BTreeMap::new(),
        }
    }
}

impl TaskTable {
    pub fn get(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(&id)
    }

    pub fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Task> {
        self.tasks.values_mut()
    }

    pub fn of_stage(&self, stage: u16) -> impl Iterator<Item = &Task> {
        self.iter().filter(move |task| task.id.stage == stage)
    }

    pub fn ids(&self) -> Vec<TaskId> {
        self.tasks.keys().copied().collect()
    }

    pub fn contains(&self, id: TaskId) -> bool {
        self.tasks.contains_key(&id)
    }

    pub fn insert(&mut self, task: Task) {
        self.tasks.insert(task.id, task);
    }

    /// Of all tasks, how many of their processes were replaced so far.
    pub fn restarts(&self) -> u32 {
        self.iter().map(|task| task.restarts).sum()
    }

    /// The tasks on a node that have work, but for `but`.
    pub fn load_of(&self, node: &NodeName, but: TaskId) -> usize {
        let on_it = self.iter().filter(|t| t.id != but && t.node == *node);
        on_it.filter(|t| !t.is_done()).count()
    }

    /// A process has registered; returns its task.
    pub fn attach(
        &mut self,
        now: Time,
        conn: ConnId,
        id: TaskId,
        pid: u32,
        addr: SocketAddr,
    ) -> Option<&mut Task> {
        let task = self.tasks.get_mut(&id)?;
        self.conns.insert(conn, (id, task.epoch));
        task.state = State::Attached { conn, started: false };
        task.pid = Some(pid);
        task.addr = Some(addr);
        task.last_heard = now;
        task.strikes = 0;
        Some(task)
    }

    /// The connection is no more; returns whose it was. What that comes to is the caller's to decide.
    pub fn detach(&mut self, conn: ConnId) -> Option<TaskId> {
        self.conns.remove(&conn).map(|(id, _)| id)
    }

    /// Whose connection that is, and under which epoch. A connection that was given up is nobody's.
    pub fn owner(&self, conn: ConnId) -> Option<(TaskId, Epoch)> {
        self.conns.get(&conn).copied()
    }

    pub fn conns(&self) -> impl Iterator<Item = ConnId> {
        self.conns.keys().copied()
    }

    /// Time in which nobody could be heard counts against nobody.
    pub fn forgive(&mut self, now: Time, missed: Duration) {
        for task in self.iter_mut().filter(|_| !missed.is_zero()) {
            task.last_heard = now.min(task.last_heard + missed);
        }
    }

    /// A task's lease has run out. It is longer where the task's node does not get round to things.
    pub fn is_silent(&self, now: Time, task: &Task, lease: Duration) -> bool {
        let silent = now.since(task.last_heard);
        if silent < lease {
            return false;
        }
        let beside = self.iter().filter(|t| t.node == task.node && t.conn().is_some());
        let late = beside.map(|t| t.report.late_ms).max().unwrap_or(0);
        silent >= patience(lease, Duration::from_millis(late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_its_tasks_until_it_is_detached() {
        let node = NodeName::new("n1").unwrap();
        let (one, two) = (TaskId::new(1, 0), TaskId::new(1, 1));
        let mut tasks: TaskTable = [one, two]
            .map(|id| Task::new(id, node.clone()))
            .into_iter()
            .collect();
        tasks.get_mut(one).unwrap().epoch = Epoch(4);
        let (now, conn) = (Time::from_millis(1000), ConnId(9));
        let task = tasks.attach(now, conn, one, 7, "127.0.0.1:1".parse().unwrap());
        assert_eq!(task.unwrap().conn(), Some(conn));
        assert_eq!(tasks.owner(conn), Some((one, Epoch(4))));
        assert_eq!(tasks.load_of(&node, two), 1);
        assert_eq!(tasks.detach(conn), Some(one));
        assert_eq!(
            (tasks.detach(conn), tasks.owner(conn), tasks.conns().count()),
            (None, None, 0)
        );
    }

    #[test]
    fn a_late_node_and_missed_time_give_a_task_longer() {
        let node = NodeName::new("n1").unwrap();
        let id = TaskId::new(1, 0);
        let mut tasks: TaskTable = [Task::new(id, node)].into_iter().collect();
        let (lease, at) = (Duration::from_secs(3), |s: u64| Time::from_millis(1000 * s));
        tasks.attach(at(1), ConnId(1), id, 7, "127.0.0.1:1".parse().unwrap());
        let silent = |tasks: &TaskTable, s| tasks.is_silent(at(s), tasks.get(id).unwrap(), lease);
        assert!(!silent(&tasks, 3) && silent(&tasks, 4));
        tasks.forgive(at(4), Duration::from_secs(2));
        assert!(!silent(&tasks, 5) && silent(&tasks, 6));
        tasks.get_mut(id).unwrap().report.late_ms = 500;
        assert!(!silent(&tasks, 6) && silent(&tasks, 8));
    }
}
