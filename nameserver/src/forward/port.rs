//! Which port a question is sent from. Each has one of its own, which the system chooses at random (RFC 5452 §9.2), as long as there are
//! not too many open; then it shares a random one of them.

use std::collections::{HashMap, VecDeque};

/// A socket of the forwarder, named once and never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(u64);

#[derive(Debug)]
pub(super) struct Ports {
    max: usize,
    last: u64,
    open: HashMap<PortId, Port>,
    /// Of each upstream, those that may be leased again.
    shared: HashMap<usize, Vec<PortId>>,
    closed: VecDeque<PortId>,
}

#[derive(Debug)]
struct Port {
    upstream: Option<usize>,
    in_flight: usize,
    uses: u32,
}

/// After so many questions a port is replaced: one that is always in use would not stay a secret.
const MAX_USES: u32 = 1_000;

impl Ports {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            last: 0,
            open: HashMap::new(),
            shared: HashMap::new(),
            closed: VecDeque::new(),
        }
    }

    pub(super) fn lease(&mut self, upstream: usize, random: &mut dyn FnMut() -> u16) -> PortId {
        let shared = self.shared.entry(upstream).or_default();
        if shared.len() >= self.max
            && let at = usize::from(random()) % shared.len()
            && let Some(&id) = shared.get(at)
            && let Some(port) = self.open.get_mut(&id)
        {
            port.in_flight += 1;
            port.uses += 1;
            if port.uses >= MAX_USES {
                shared.swap_remove(at);
            }
            return id;
        }
        let id = self.open(Some(upstream));
        self.shared.entry(upstream).or_default().push(id);
        id
    }

    /// A port for one question alone.
    pub(super) fn lease_own(&mut self) -> PortId {
        self.open(None)
    }

    fn open(&mut self, upstream: Option<usize>) -> PortId {
        self.last += 1;
        let id = PortId(self.last);
        let port = Port {
            upstream,
            in_flight: 1,
            uses: 1,
        };
        self.open.insert(id, port);
        id
    }

    /// A question that was sent from it is over; with the last one it is closed.
    pub(super) fn release(&mut self, id: PortId) {
        let Some(port) = self.open.get_mut(&id) else {
            return;
        };
        port.in_flight -= 1;
        if port.in_flight > 0 {
            return;
        }
        if let Some(shared) = port.upstream.and_then(|upstream| self.shared.get_mut(&upstream))
            && let Some(at) = shared.iter().position(|&other| other == id)
        {
            shared.swap_remove(at);
        }
        self.open.remove(&id);
        self.closed.push_back(id);
    }

    pub(super) fn poll_closed(&mut self) -> Option<PortId> {
        self.closed.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_question_has_its_own_port_until_there_are_enough() {
        let mut ports = Ports::new(3);
        let mut random = || 1;
        let leased: Vec<_> = (0..5).map(|_| ports.lease(0, &mut random)).collect();
        assert_eq!(leased.iter().collect::<BTreeSet<_>>().len(), 3);
        assert_eq!(leased[3], leased[1]);
        assert_ne!(
            ports.lease(1, &mut random),
            leased[1],
            "a port is connected to one upstream"
        );
        ports.release(leased[0]);
        assert_eq!(ports.poll_closed(), Some(leased[0]));
        ports.release(leased[3]);
        assert_eq!(ports.poll_closed(), None, "others wait on it");
    }

    #[test]
    fn a_port_that_is_always_in_use_is_replaced() {
        let mut ports = Ports::new(1);
        let first = ports.lease(0, &mut || 0);
        let others = (1..MAX_USES).map(|_| ports.lease(0, &mut || 0));
        assert!(others.into_iter().all(|id| id == first));
        assert_ne!(ports.lease(0, &mut || 0), first);
    }
}
