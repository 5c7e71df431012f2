//! Streams between agents and the member each takes for the leader: opened, broken, closed, each end in its time.
//! In: what either says. Out: the same in its order, or both ends noticing that the stream is over.

use cluster::agent::ToLeader;
use cluster::{MemberId, NodeId};
use decide::Input;
use replica::Link;

use crate::sim::agents::reached;
use crate::sim::clock::{MS, SECOND};
use crate::sim::happenings::{End, Happening, Mail, ToNode};
use crate::sim::host::Session;
use crate::sim::world::World;
/// An attempt to reach the leader is given up after this.
const SEEK_TIMEOUT: u64 = SECOND;

impl World {
    pub(crate) fn seek_leader(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("it seeks");
        let (life, site, generation) = (node.life, node.site, node.generation);
        let Some(process) = &mut node.agent else { return };
        if process.session.is_some() || process.seeking.is_some_and(|(_, since)| now - since < SEEK_TIMEOUT) {
            return;
        }
        let known: Vec<MemberId> = match &process.membership {
            Some(identity) => reached(&self.members, identity),
            None => self.members.keys().copied().collect(),
        };
        process.tried += 1;
        let next = known[process.tried % known.len()];
        let member = process.hint.take().unwrap_or(next);
        let link = Link(self.next_link);
        self.next_link += 1;
        process.seeking = Some((link, now));
        let member_life = self.members.get(&member).map_or(0, |member| member.life);
        let session = Session {
            node: id,
            generation,
            agent_life: life,
            member,
            member_life,
            broken: false,
            ended: (false, false),
            up: 0,
            down: 0,
        };
        self.sessions.insert(link, session);
        if let Some(delay) = self.net.stream(site, self.member_site(member)) {
            self.after(delay, Happening::Mail { member, mail: Mail::Open { link } });
        }
    }

    pub(crate) fn session_opens(&mut self, member: MemberId, link: Link) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        let (node, generation) = (session.node, session.generation);
        session.member_life = self.members[&member].life;
        let process = self.process(member);
        let leads = process.is_some_and(|process| process.replica.is_leader());
        let hint = process.and_then(|process| process.replica.leader()).filter(|leader| *leader != member);
        if leads {
            self.input(member, replica::Input::AgentOpened { link, node, generation });
            self.down_the_session(member, link, |link| ToNode::Accepted { link });
        } else {
            self.down_the_session(member, link, |link| ToNode::Refused { link, hint });
            self.sessions.remove(&link);
        }
    }

    pub(crate) fn up_the_session(&mut self, id: NodeId, message: ToLeader) {
        let kind = match &message {
            ToLeader::Register(_) => Some(0),
            ToLeader::Ended { .. } => Some(1),
            _ => None,
        };
        if let (Some(kind), Some(node)) = (kind, self.nodes.get_mut(&id)) {
            node.said.insert(kind, message.clone());
        }
        let node = &self.nodes[&id];
        let Some(link) = node.agent.as_ref().and_then(|process| process.session) else { return };
        let Some(session) = self.sessions.get(&link).filter(|session| !session.broken) else { return };
        let (member, before) = (session.member, session.up);
        match self.net.stream(node.site, self.member_site(member)) {
            Some(delay) => {
                let at = (self.now + delay).max(before + 1);
                self.sessions.get_mut(&link).expect("just seen").up = at;
                let mail = Mail::Said { link, message: Box::new(message) };
                self.at(at, Happening::Mail { member, mail });
            }
            None => self.break_session(link),
        }
    }

    pub(crate) fn down_the_session(&mut self, member: MemberId, link: Link, what: impl FnOnce(Link) -> ToNode) {
        let Some(session) = self.sessions.get(&link).filter(|session| !session.broken) else { return };
        let (node, life, before) = (session.node, session.agent_life, session.down);
        match self.net.stream(self.member_site(member), self.node_site(node)) {
            Some(delay) => {
                let at = (self.now + delay).max(before + 1);
                self.sessions.get_mut(&link).expect("just seen").down = at;
                self.at(at, Happening::Node { node, life, what: what(link) });
            }
            None => self.break_session(link),
        }
    }

    /// Something was lost on it for good: both ends notice when their keep-alives go unanswered.
    fn break_session(&mut self, link: Link) {
        if let Some(session) = self.sessions.get_mut(&link) {
            session.broken = true;
            for end in [End::Agent, End::Member] {
                let notice = SECOND + self.chance.below(2 * SECOND);
                self.after(notice, Happening::SessionEnds { link, end });
            }
        }
    }

    /// The sessions for which `which` holds are over; who is still there notices after `notice`.
    pub(crate) fn break_sessions(&mut self, which: impl Fn(&Session) -> bool, notice: u64) {
        let links: Vec<Link> =
            self.sessions.iter().filter(|(_, session)| which(session)).map(|(link, _)| *link).collect();
        self.break_sessions_in(&links, notice);
    }

    pub(crate) fn break_sessions_in(&mut self, links: &[Link], notice: u64) {
        for link in links {
            if let Some(session) = self.sessions.get_mut(link) {
                session.broken = true;
                for end in [End::Agent, End::Member] {
                    self.after(notice, Happening::SessionEnds { link: *link, end });
                }
            }
        }
    }

    pub(crate) fn break_sessions_of(&mut self, link: Link) {
        if let Some(session) = self.sessions.get_mut(&link) {
            session.broken = true;
            self.after(0, Happening::SessionEnds { link, end: End::Agent });
            self.after(MS, Happening::SessionEnds { link, end: End::Member });
        }
    }

    /// One end of a session notices that it is over.
    pub(crate) fn session_ends(&mut self, link: Link, end: End) {
        let Some(session) = self.sessions.get_mut(&link) else { return self.counts.void += 1 };
        session.broken = true;
        let (id, life, member, member_life) = (session.node, session.agent_life, session.member, session.member_life);
        // What stands still notices nothing; it will, when it goes on.
        if end == End::Agent
            && let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life && node.agent_paused)
        {
            return node.waiting.push(Happening::SessionEnds { link, end });
        }
        if end == End::Agent
            && let Some(machine) = self.machines.get_mut(&self.nodes[&id].site).filter(|it| it.frozen_since.is_some())
        {
            return machine.waiting.push(Happening::SessionEnds { link, end });
        }
        let held = self.members.get_mut(&member).filter(|it| it.life == member_life);
        if end == End::Member
            && let Some(held) = held
        {
            if held.paused {
                return held.waiting.push(Happening::SessionEnds { link, end });
            }
            if let Some(machine) = self.machines.get_mut(&held.site).filter(|it| it.frozen_since.is_some()) {
                return machine.waiting.push(Happening::SessionEnds { link, end });
            }
        }
        self.counts.handled += 1;
        match end {
            End::Agent => session.ended.0 = true,
            End::Member => session.ended.1 = true,
        }
        if session.ended == (true, true) {
            self.sessions.remove(&link);
        }
        if end == End::Member {
            if self.members.get(&member).is_some_and(|member| member.life == member_life) {
                self.input(member, replica::Input::AgentClosed { link });
            }
            return;
        }
        let Some(process) =
            self.nodes.get_mut(&id).filter(|node| node.life == life).and_then(|node| node.agent.as_mut())
        else {
            return;
        };
        process.seeking.take_if(|(sought, _)| *sought == link);
        if process.session.take_if(|open| *open == link).is_some() {
            self.agent_input(id, Input::LeaderLost);
        }
    }

    /// An old desired set comes late, over whatever session there is.
    pub(crate) fn replay(&mut self, id: NodeId) -> bool {
        let Some(node) = self.nodes.get(&id) else { return false };
        let earlier = self.chance.one_in(2);
        let set = if earlier { node.older_set.as_ref().or(node.old_set.as_ref()) } else { node.old_set.as_ref() };
        let (Some(set), Some(link)) = (set, node.agent.as_ref().and_then(|process| process.session)) else {
            return false;
        };
        let message = Box::new(cluster::agent::ToAgent::Desired(set.clone()));
        self.after(0, Happening::Node { node: id, life: node.life, what: ToNode::Said { link, message } });
        true
    }
}
