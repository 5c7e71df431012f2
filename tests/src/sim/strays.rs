//! Words that should not be there: an identity that was cloned, registrations and farewells that come once more.
//! In: deeds. Out: a session and heartbeats in the name of a node, from something that is not its agent.
//! What answers them goes nowhere. Absent: anything that runs; a clone gets no further than the members let it.

use cluster::agent::{Heartbeat, ToLeader};
use cluster::command::Registration;
use cluster::{AgentRun, BootId, Health, Incarnation, Moment, NodeId};

use crate::sim::agents::heartbeat_link;
use crate::sim::clock::{MS, SECOND};
use crate::sim::happenings::{End, Happening, Mail};
use crate::sim::host::Session;
use crate::sim::world::World;
use replica::Link;

/// No agent has this life.
const NOBODY: u32 = u32::MAX;

impl World {
    /// A machine made from a copy of this node's disk says what an agent would: it registers, and beats.
    pub(crate) fn clone_speaks(&mut self, id: NodeId) -> bool {
        let boot = BootId(u128::from(id.0) << 64 | 0xc10e);
        let Some(health) = self.newest.node(id).map(|node| node.health.clone()) else { return false };
        let node = &self.nodes[&id];
        let (site, terms) = (node.site, node.journal.terms);
        if health.incarnation() == Incarnation(0) {
            return false;
        }
        let heartbeat = Heartbeat {
            generation: node.generation,
            node: id,
            incarnation: health.incarnation(),
            boot,
            terms,
            sequence: self.now,
            sent_at: Moment(self.now),
        };
        for member in self.members.keys().copied().collect::<Vec<_>>() {
            let there = self.member_site(member);
            self.toss(site, there, || {
                let mail =
                    Mail::Heartbeat { link: heartbeat_link(id, NOBODY), node: id, heartbeat: Box::new(heartbeat) };
                Happening::Mail { member, mail }
            });
        }
        if matches!(health, Health::Up { boot: current, .. } if current == boot) {
            return true;
        }
        let facts = self.nodes[&id].facts(self.layout.power_switch);
        let (ends, run) = (health.incarnation(), AgentRun(0));
        let registration = Registration { node: id, ends, boot, empty: true, facts, run };
        self.stray_session(id, vec![ToLeader::Register(Box::new(registration))])
    }

    /// The last registration and the last farewell that left this node reach the leader once more.
    pub(crate) fn echoes(&mut self, id: NodeId) -> bool {
        let said: Vec<ToLeader> = self.nodes[&id].said.values().cloned().collect();
        !said.is_empty() && self.stray_session(id, said)
    }

    /// Opens a session with the leader in the name of a node, says this, and is gone a little later.
    fn stray_session(&mut self, node: NodeId, words: Vec<ToLeader>) -> bool {
        let Some(member) = self.leader() else { return false };
        let link = Link(self.next_link);
        self.next_link += 1;
        let member_life = self.members[&member].life;
        let (broken, ended) = (false, (false, false));
        let generation = self.nodes[&node].generation;
        let session =
            Session { node, generation, agent_life: NOBODY, member, member_life, broken, ended, up: 0, down: 0 };
        self.sessions.insert(link, session);
        self.after(MS, Happening::Mail { member, mail: Mail::Open { link } });
        for (place, message) in (2..).zip(words) {
            let mail = Mail::Said { link, message: Box::new(message) };
            self.after(place * MS, Happening::Mail { member, mail });
        }
        for end in [End::Agent, End::Member] {
            self.after(SECOND, Happening::SessionEnds { link, end });
        }
        true
    }
}
