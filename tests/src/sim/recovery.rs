//! Recovery to a new generation while the old majority lives: when it is drawn, what is done, what changes for god.
//! In: deeds. Out: a survivor that begins again alone, members that never start again, nodes that were told to cross over.
//! The others are stopped by nobody: they lead on, serve whoever has not crossed, and come back whenever they like.
//! Promises about logs and clients hold within a generation; what really runs is judged over all of them.

use cluster::{Generation, LogsRead, MemberId, NodeId};
use record::{Identity, SnapshotMeta};
use replica::recovery::{Reading, Survey, next_generation, survey};

use crate::sim::bodies::encode;
use crate::sim::chance::Chance;
use crate::sim::clients::{Operator, Step};
use crate::sim::clock::{God, MS, SECOND};
use crate::sim::deeds::{Deed, Layout, Timed};
use crate::sim::disk::Disk;
use crate::sim::members::load;
use crate::sim::mirror::Mirror;
use crate::sim::net::Site;
use crate::sim::transcript::{Line, Show};
use crate::sim::world::World;

/// One seed in so many is recovered, once.
const RARE: u64 = 8;

/// The members but one are lost, or so it seems. From that one, or from it and others, the cluster begins again; its nodes
/// cross over one after another, some of them only when everything is well.
pub(super) fn recoveries(chance: &mut Chance, layout: &Layout, length: u64, schedule: &mut Vec<Timed>) {
    if !chance.one_in(RARE) || length < 20 * SECOND {
        return;
    }
    let (members, nodes) = (layout.members(), layout.nodes());
    let survivor = *chance.pick(&members);
    let others: Vec<Site> = members.iter().copied().filter(|site| *site != survivor).collect();
    let lost_at = 4 * SECOND + chance.below(length / 2);
    let at = lost_at + chance.within(SECOND..=10 * SECOND);
    let long = chance.within(SECOND..=20 * SECOND);
    let mut add = |at: God, deed: Deed| schedule.push(Timed { at, deed });
    match chance.below(4) {
        // It only seems so: the survivor is the one that is cut off, and the others go on without it.
        0 | 1 => {
            for site in layout.sites().filter(|site| *site != survivor) {
                // Some nodes see both sides.
                let sees_both = nodes.contains(&site) && !others.contains(&site) && chance.one_in(2);
                if !sees_both {
                    add(lost_at, Deed::Cut(survivor, site));
                    add(lost_at, Deed::Cut(site, survivor));
                }
            }
            add(at + chance.below(long), Deed::Rejoin(survivor));
        }
        2 => {
            for other in &others {
                add(lost_at, Deed::PowerOff(*other));
                add(at + chance.below(long), Deed::PowerOn(*other));
            }
        }
        _ => {
            for other in &others {
                add(lost_at, Deed::KillMember { at: *other, down: at - lost_at + chance.below(long) });
            }
        }
    }
    let reachable = if chance.one_in(2) { 0 } else { chance.below(others.len() as u64 + 1) as usize };
    add(at, Deed::Recover { at: survivor, with: others[..reachable].to_vec() });
    let (hasty, everybody) = (chance.one_in(2), !chance.one_in(3));
    for node in nodes {
        let after = if hasty { chance.below(2 * SECOND) } else { chance.below(2 * long) };
        if everybody || chance.one_in(2) {
            add(at + after + MS, Deed::Cross(node));
        }
        if chance.one_in(8) {
            add(at + after / 2 + MS, Deed::PowerOff(node));
            add(at + after / 2 + SECOND, Deed::ConfirmDown(node));
            add(at + after / 2 + long, Deed::PowerOn(node));
        }
    }
}

impl World {
    /// The generation that people mean: the newest.
    pub(crate) fn generation(&self) -> Generation {
        self.newest.generation()
    }

    /// Whether this member is of the newest generation.
    pub(crate) fn is_current(&self, member: MemberId) -> bool {
        self.members.get(&member).is_some_and(|member| member.generation == self.generation())
    }

    /// Whether this node was told to serve the newest generation.
    pub(crate) fn has_crossed(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.generation == self.generation())
    }

    /// The members on these machines are stopped and read; a new generation begins with the newest of them. False if it
    /// has begun already, or none can be read.
    pub(crate) fn recover(&mut self, at: Site, with: &[Site]) -> bool {
        if self.generation().number > 1 {
            return false;
        }
        let reached = |site: &Site| self.machines.get(site).is_some_and(|machine| machine.powered);
        let sites: Vec<Site> = [at].iter().chain(with).copied().filter(reached).collect();
        let whole = |id: &MemberId| !self.members[id].damaged;
        let read: Vec<MemberId> = sites.iter().filter_map(|site| self.lives_on(*site)).filter(whole).collect();
        let mut readings = Vec::new();
        for id in read {
            self.stop_member(id, false);
            let member = self.members.get_mut(&id).expect("it lives there");
            match load(member, &mut self.bodies) {
                Ok(start) if start.state.is_some() => readings.push(Reading { member: id, start }),
                Ok(_) | Err(_) => self.supervise(id, SECOND),
            }
        }
        match survey(&readings.iter().collect::<Vec<_>>()) {
            Ok(found) => self.begin_generation(&found, &readings),
            Err(_) => false,
        }
    }

    fn begin_generation(&mut self, found: &Survey, readings: &[Reading]) -> bool {
        let now = self.now;
        let generation =
            Generation { number: self.generation().number + 1, id: u128::from(self.chance.draw()) << 64 | 1 };
        let Some(newest) = readings.iter().find(|reading| reading.member == found.newest) else { return false };
        let survivor = newest.start.state.as_ref().and_then(|state| state.member(found.newest).cloned());
        let Some((survivor, id)) = survivor.map(|survivor| (survivor, found.newest)) else { return false };
        let (state, point) = match next_generation(newest, generation, survivor, found.logs) {
            Ok(begun) => begun,
            Err(error) => {
                self.checks.violate(now, "Recovery", format!("{id} cannot begin generation {generation}: {error}"));
                return false;
            }
        };
        for violation in cluster::invariants::check(&state) {
            self.checks.violate(now, "State", violation.to_string());
        }
        if found.logs == LogsRead::Majority {
            self.checks.remembers(now, "the state recovered from a majority", &state);
        }
        for reading in readings.iter().filter(|reading| reading.member != id) {
            self.members.get_mut(&reading.member).expect("just read").retired = Some("recovered elsewhere".to_owned());
        }
        let body = encode(&state);
        let meta = SnapshotMeta::of(point, replica::encode_membership(state.membership()), &body);
        let (speed, chance) = (self.layout.disk, Chance::new(self.seed ^ now, "disk"));
        let member = self.members.get_mut(&id).expect("just read");
        member.generation = generation;
        member.identity = Identity { incarnation: generation.number, ..member.identity };
        member.disk = Disk::new(member.identity, Some((&meta, &body)), speed, chance);
        member.mirror = Mirror::default();
        let kind = match found.logs {
            LogsRead::Majority => "recovered from a majority",
            LogsRead::Fewer => "recovered from fewer",
        };
        *self.counts.transitions.entry(kind).or_default() += 1;
        if self.transcript.wants(Show::Deeds) {
            let text =
                format!("! {id} begins generation {}, {kind}: {:?} were not read", generation.number, found.unread);
            self.note(Line { show: Show::Deeds, text });
        }
        self.close_books();
        self.checks.recovered(generation, &state);
        self.rules_recovered(&state);
        self.operator = Operator::default();
        self.newest = state;
        self.supervise(id, SECOND / 2);
        true
    }

    /// The node's identity names the newest generation from here on; its agent, if it runs, is started anew to read it.
    pub(crate) fn cross(&mut self, id: NodeId) -> bool {
        let generation = self.generation();
        if !self.told_to_serve(id, generation) {
            return false;
        }
        if self.nodes[&id].agent.is_some() {
            self.stop_agent(id, false);
            let down = self.jitter(200 * MS);
            self.restart_agent(id, down);
        }
        true
    }

    /// False if it was told before.
    pub(crate) fn told_to_serve(&mut self, id: NodeId, generation: Generation) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        // What it said to the generation before does not reach this one.
        node.said.clear();
        std::mem::replace(&mut node.generation, generation) != generation
    }

    /// Once everything is well: nobody serves the old generation any more, and its members come back under new ids.
    pub(crate) fn leave_the_old_behind(&mut self) {
        let generation = self.generation();
        if generation.number == 1 {
            return;
        }
        let old: Vec<(MemberId, Site)> =
            self.members.values().filter(|member| member.generation != generation).map(|it| (it.id, it.site)).collect();
        for (id, site) in old {
            self.stop_member(id, false);
            let member = self.members.get_mut(&id).expect("just seen");
            member.retired.get_or_insert_with(|| "of an earlier generation".to_owned());
            self.operator.queue(Step::Add(site));
        }
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in nodes {
            self.cross(id);
        }
    }

    /// The node, if there is one, for which an operator can vouch: it was told to serve this generation, so that it never
    /// goes back to the one before, and nothing that the one before gave it runs.
    pub(crate) fn may_be_vouched_for(&self) -> Option<NodeId> {
        let begun = cluster::recovery::first_revision(self.generation());
        let serves_no_more = |id: NodeId| {
            let runs = |runner: &crate::sim::checks::Runner| runner.node == id && runner.incarnation.0 < begun.0;
            self.has_crossed(id) && !self.checks.running().any(|(_, runner)| runs(runner))
        };
        self.newest.nodes().find(|node| node.may_serve_elsewhere() && serves_no_more(node.id)).map(|node| node.id)
    }
}
