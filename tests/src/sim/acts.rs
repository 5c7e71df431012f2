//! Carries out deeds: what breaks, what is mended, what people ask for.
//! In: one deed at its time. Out: changes to machines, links and processes, and what follows from them at once.
//! A deed that does not fit (a machine that is off already) does nothing and is counted as idle.

use cluster::{Event, Incarnation, MemberId, NodeId, Proof, Revision};

use crate::sim::agents::PROBE;
use crate::sim::clients::Step;
use crate::sim::clock::{Clock, MS, SECOND};
use crate::sim::deeds::Deed;
use crate::sim::happenings::{Happening, Wish};
use crate::sim::host::Session;
use crate::sim::net::Site;
use crate::sim::transcript::{Line, Show};
use crate::sim::world::World;

impl World {
    /// Does it at once; false if it changes nothing.
    pub fn act_now(&mut self, deed: &Deed) -> bool {
        let idle = self.counts.deeds_idle;
        self.act_out(deed);
        self.counts.deeds_idle == idle
    }

    pub(crate) fn act_out(&mut self, deed: &Deed) {
        let show = if matches!(deed, Deed::Ask { .. }) { Show::Clients } else { Show::Deeds };
        if self.transcript.wants(show) {
            self.note(Line { show, text: format!("! {deed}") });
        }
        let done = self.try_act(deed);
        self.counts.deeds += 1;
        if !done {
            self.counts.deeds_idle += 1;
            return;
        }
        if !matches!(deed, Deed::Ask { .. }) {
            *self.counts.faults.entry(deed.kind()).or_default() += 1;
        }
    }

    fn try_act(&mut self, deed: &Deed) -> bool {
        if self.healed && deed.breaks() {
            return false;
        }
        match *deed {
            Deed::PowerOff(site) => self.power_off(site),
            Deed::PowerOn(site) => self.power_on(site),
            Deed::Freeze(site) => self.freeze(site),
            Deed::Suspend(site) => {
                let asleep = self.freeze(site);
                if asleep && let Some(machine) = self.machines.get_mut(&site) {
                    machine.suspended = true;
                }
                asleep
            }
            Deed::StopClock(site) => {
                let stopped = self.freeze(site);
                if stopped && let Some(machine) = self.machines.get_mut(&site) {
                    machine.clock_stopped = true;
                    let member = machine.member;
                    self.cannot_notice(member);
                }
                stopped
            }
            Deed::Thaw(site) => self.thaw(site),
            Deed::Wall { at, ms } => match self.machines.get_mut(&at) {
                Some(machine) => {
                    machine.wall_ms += ms;
                    machine.wall_jumped = true;
                    true
                }
                None => false,
            },
            Deed::Cut(from, to) => self.cut(&[(from, to)]),
            Deed::Mend(from, to) => {
                self.net.mend(from, to);
                true
            }
            Deed::Isolate(site) => {
                let pairs: Vec<_> =
                    self.others(site).into_iter().flat_map(|other| [(site, other), (other, site)]).collect();
                self.cut(&pairs)
            }
            Deed::Rejoin(site) => {
                for other in self.others(site) {
                    self.net.mend(site, other);
                    self.net.mend(other, site);
                }
                true
            }
            Deed::Slow(from, to, extra) => {
                self.net.slow(from, to, extra);
                from != to
            }
            Deed::ResetStreams(site) => {
                let member = self.machines.get(&site).and_then(|machine| machine.member);
                let node = self.machines.get(&site).and_then(|machine| machine.node);
                self.streams.retain(|(from, to), _| Some(*from) != member && Some(*to) != member);
                self.break_sessions(|session| Some(session.member) == member || Some(session.node) == node, MS);
                true
            }
            Deed::Weather(weather) => {
                self.net.weather = weather;
                true
            }
            Deed::KillMember { at, down } => self.lives_on(at).is_some_and(|id| {
                let killed = self.stop_member(id, false);
                if killed {
                    self.supervise(id, down);
                }
                killed
            }),
            Deed::CrashMember { at, point, after, power } => self.lives_on(at).is_some_and(|id| {
                let member = self.members.get_mut(&id).expect("it lives there");
                member.crash = Some((point, after, power));
                member.process.is_some()
            }),
            Deed::PauseMember(at) => self.lives_on(at).is_some_and(|id| {
                self.stands_still(Some(id));
                let member = self.members.get_mut(&id).expect("it lives there");
                member.process.is_some() && !std::mem::replace(&mut member.paused, true)
            }),
            Deed::ResumeMember(at) => self.lives_on(at).is_some_and(|id| {
                self.goes_on(Some(id));
                let member = self.members.get_mut(&id).expect("it lives there");
                let waiting = std::mem::take(&mut member.waiting);
                self.deliver_late(waiting);
                std::mem::replace(&mut self.members.get_mut(&id).expect("it lives there").paused, false)
            }),
            Deed::KillAgent { at, down } => self.node_at_site(at).is_some_and(|id| {
                let killed = self.stop_agent(id, false);
                self.restart_agent(id, down);
                killed
            }),
            Deed::PauseAgent(at) => self.node_at_site(at).is_some_and(|id| {
                let node = self.nodes.get_mut(&id).expect("it is there");
                node.agent.is_some() && !std::mem::replace(&mut node.agent_paused, true)
            }),
            Deed::ResumeAgent(at) => self.node_at_site(at).is_some_and(|id| {
                let node = self.nodes.get_mut(&id).expect("it is there");
                let waiting = std::mem::take(&mut node.waiting);
                let paused = std::mem::replace(&mut node.agent_paused, false);
                self.deliver_late(waiting);
                paused
            }),
            Deed::KillGuard { at, down } => self.node_at_site(at).is_some_and(|id| {
                let killed = self.stop_guard(id);
                self.restart_guard(id, down);
                killed
            }),
            Deed::KillNode { at, down } => self.node_at_site(at).is_some_and(|id| {
                let killed = self.stop_agent(id, false) | self.stop_guard(id);
                self.restart_guard(id, down);
                self.restart_agent(id, down + MS);
                killed
            }),
            Deed::StallDisk { at, length } => self.lives_on(at).is_some_and(|id| {
                let until = self.now + length;
                self.members.get_mut(&id).expect("it lives there").disk.stall(until);
                true
            }),
            Deed::FailSync(at) => self.lives_on(at).is_some_and(|id| {
                let member = self.members.get_mut(&id).expect("it lives there");
                member.disk.mem.fail_sync();
                member.process.is_some()
            }),
            Deed::FullDisk { at, length } => self.lives_on(at).is_some_and(|id| {
                let until = self.now + length;
                self.members.get_mut(&id).expect("it lives there").disk.full(until);
                true
            }),
            Deed::BreakSnapshots { at, length } => self.lives_on(at).is_some_and(|id| {
                let until = self.now + length;
                self.members.get_mut(&id).expect("it lives there").snapshots_break_until = until;
                true
            }),
            Deed::WipeDisk(at) => self.damage(at, |member, _| member.disk.wipe()),
            Deed::RotDisk { at, place } => self.damage(at, |member, _| member.disk.rot(place)),
            Deed::Rate { at, ppm } => {
                let now = self.now;
                let Some(machine) = self.machines.get_mut(&at) else { return false };
                machine.clock.set_rate(now, ppm);
                machine.rate_ppm = ppm;
                true
            }
            Deed::SlowStops { at, length, stop } => self.node_at_site(at).is_some_and(|id| {
                let until = self.now + length;
                self.nodes.get_mut(&id).expect("it is there").slow_stops = (until, stop);
                true
            }),
            Deed::HangKills { at, length } => self.node_at_site(at).is_some_and(|id| {
                let until = self.now + length;
                self.nodes.get_mut(&id).expect("it is there").hung_until = until;
                true
            }),
            Deed::FailStarts { at, length } => self.node_at_site(at).is_some_and(|id| {
                let until = self.now + length;
                self.nodes.get_mut(&id).expect("it is there").fail_starts_until = until;
                true
            }),
            Deed::LoseStorage { at, length } => self.node_at_site(at).is_some_and(|id| {
                let until = self.now + length;
                self.nodes.get_mut(&id).expect("it is there").storage_lost_until = until;
                self.looks_at_storages(id, PROBE);
                self.looks_at_storages(id, length + PROBE);
                true
            }),
            Deed::LyingStarts { at, length } => self.node_at_site(at).is_some_and(|id| {
                let until = self.now + length;
                self.nodes.get_mut(&id).expect("it is there").lying_until = until;
                true
            }),
            Deed::Exit { at, code } => self.powered(at) && self.exit_one(at, code),
            Deed::TransferLeader(to) => {
                let to = to.and_then(|site| self.lives_on(site));
                self.operator_asks(Wish::Transfer(to));
                true
            }
            Deed::AddMember(at) => {
                self.operator.queue(Step::Add(at));
                self.begin_operator();
                true
            }
            Deed::RemoveMember(at) => self.lives_on(at).is_some_and(|id| {
                // Two voters that wait for each other are no cluster to test: one change at a time.
                let enough = self.newest.membership().voters.len() > 2 && self.operator.is_idle();
                if enough {
                    self.operator.replace(id);
                    self.begin_operator();
                }
                enough
            }),
            Deed::Leave(at) => self.node_at_site(at).is_some_and(|id| {
                let asked = self.powered(at) && self.nodes[&id].agent.is_some() && !self.nodes[&id].agent_paused;
                if asked {
                    self.leaves(id);
                    self.agent_input(id, decide::Input::Leave);
                }
                asked
            }),
            Deed::ConfirmDown(at) => self.confirm_down(at),
            Deed::Replay(at) => self.node_at_site(at).is_some_and(|id| self.replay(id)),
            Deed::Clone(at) => self.node_at_site(at).is_some_and(|id| self.clone_speaks(id)),
            Deed::Echo(at) => self.node_at_site(at).is_some_and(|id| self.echoes(id)),
            Deed::Recover { at, ref with } => self.recover(at, with),
            Deed::Cross(at) => self.node_at_site(at).is_some_and(|id| self.cross(id)),
            Deed::Ask { client, ref ask } => self.ask(client.min(self.layout.clients), ask),
        }
    }

    fn others(&self, site: Site) -> Vec<Site> {
        self.machines.keys().copied().filter(|other| *other != site).chain([Site(0)]).collect()
    }

    fn powered(&self, site: Site) -> bool {
        self.machines.get(&site).is_some_and(|machine| machine.powered)
    }

    fn node_at_site(&self, site: Site) -> Option<NodeId> {
        self.machines.get(&site).filter(|machine| machine.powered).and_then(|machine| machine.node)
    }

    pub(crate) fn restart_agent(&mut self, id: NodeId, down: u64) {
        let life = self.nodes[&id].life;
        self.after(down, Happening::StartAgent { node: id, life });
    }

    pub(crate) fn restart_guard(&mut self, id: NodeId, down: u64) {
        let life = self.nodes[&id].guard_life;
        self.after(down, Happening::StartGuard { node: id, life });
    }

    /// What waited is taken up now, in its order.
    fn deliver_late(&mut self, waiting: Vec<Happening>) {
        // They were counted when they were first scheduled.
        self.counts.scheduled -= waiting.len() as u64;
        for what in waiting {
            self.after(0, what);
        }
    }

    pub(crate) fn power_off(&mut self, site: Site) -> bool {
        let Some(machine) = self.machines.get_mut(&site) else { return false };
        if !std::mem::replace(&mut machine.powered, false) {
            return false;
        }
        machine.frozen_since = None;
        machine.suspended = false;
        machine.clock_stopped = false;
        machine.blind_until = 0;
        machine.thawed_at = None;
        let (member, node) = (machine.member, machine.node);
        let waiting = std::mem::take(&mut machine.waiting);
        self.counts.void += waiting.len() as u64;
        if let Some(id) = member.filter(|id| self.members.contains_key(id)) {
            self.stop_member(id, true);
        }
        if let Some(id) = node {
            self.node_loses_power(id);
        }
        true
    }

    pub(crate) fn power_on(&mut self, site: Site) -> bool {
        let (now, boot) = (self.now, self.new_boot());
        let reading = self.jitter(4 * SECOND);
        let Some(machine) = self.machines.get_mut(&site) else { return false };
        if std::mem::replace(&mut machine.powered, true) {
            return false;
        }
        machine.boot = boot;
        machine.clock = Clock::new(now, reading, machine.rate_ppm);
        let (member, node) = (machine.member, machine.node);
        if let Some(id) = member {
            let down = self.jitter(400 * MS);
            self.supervise(id, down);
        }
        if let Some(id) = node {
            let down = self.jitter(300 * MS);
            self.restart_guard(id, down);
            self.restart_agent(id, down + 50 * MS);
        }
        true
    }

    fn freeze(&mut self, site: Site) -> bool {
        let now = self.now;
        match self.machines.get_mut(&site) {
            Some(machine) if machine.lives() => {
                machine.frozen_since = Some(now);
                let member = machine.member;
                self.stands_still(member);
                true
            }
            _ => false,
        }
    }

    fn thaw(&mut self, site: Site) -> bool {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(&site) else { return false };
        let Some(since) = machine.frozen_since.take() else { return false };
        machine.thawed_at = Some(now);
        let member = machine.member;
        if std::mem::replace(&mut machine.clock_stopped, false) {
            machine.clock.stood_still(now - since);
            // Its lease goes on as if nothing had been: F1 does not cover that, and says so.
            let terms = self.newest.settings().terms;
            machine.blind_until = now + 2 * (terms.lease.0 + machine.after_lease.0);
        }
        if std::mem::replace(&mut machine.suspended, false) {
            machine.clock.slept(now - since);
        }
        let waiting = std::mem::take(&mut machine.waiting);
        self.goes_on(member);
        // Timers of a process that stood still fire once.
        let mut ticked = Vec::new();
        let mut kept = Vec::new();
        for what in waiting {
            match &what {
                Happening::Member { member, what: crate::sim::happenings::ToMember::Tick, .. }
                    if ticked.contains(member) =>
                {
                    self.counts.void += 1;
                }
                Happening::Member { member, what: crate::sim::happenings::ToMember::Tick, .. } => {
                    ticked.push(*member);
                    kept.push(what);
                }
                _ => kept.push(what),
            }
        }
        self.deliver_late(kept);
        true
    }

    /// Each pair one way. Streams across it will be noticed to be broken.
    fn cut(&mut self, pairs: &[(Site, Site)]) -> bool {
        let mut any = false;
        for (from, to) in pairs.iter().copied().filter(|(from, to)| from != to) {
            any |= !self.net.is_cut(from, to);
            self.net.cut(from, to);
        }
        let across = |a: Site, b: Site| pairs.contains(&(a, b)) || pairs.contains(&(b, a));
        let is_hit = |session: &Session| across(self.member_site(session.member), self.node_site(session.node));
        let broken: Vec<_> =
            self.sessions.iter().filter(|(_, session)| is_hit(session)).map(|(link, _)| *link).collect();
        let notice = SECOND + self.chance.below(2 * SECOND);
        self.break_sessions_in(&broken, notice);
        any
    }

    /// A disk may be damaged only while what the others hold is enough: the promise is about a majority.
    fn damage(&mut self, at: Site, harm: impl FnOnce(&mut crate::sim::host::Member, u64)) -> bool {
        let Some(id) = self.lives_on(at) else { return false };
        let voters = self.newest.membership().all_voters();
        let whole =
            |other: &cluster::MemberId| *other != id && self.members.get(other).is_some_and(|m| m.retired.is_none());
        let left = voters.iter().filter(|other| whole(other)).count();
        if !self.is_current(id)
            || left <= voters.len() / 2
            || self.newest.membership().is_joint()
            || !self.operator.is_idle()
        {
            return false;
        }
        // Only one at a time may be unaware of its loss.
        if self.members.values().any(|member| member.damaged && member.retired.is_none()) {
            return false;
        }
        self.stop_member(id, false);
        let now = self.now;
        let member = self.members.get_mut(&id).expect("it lives there");
        member.damaged = true;
        harm(member, now);
        self.supervise(id, 300 * MS);
        true
    }

    fn operator_asks(&mut self, wish: Wish) {
        let client = self.layout.clients;
        self.begin_wish(client, wish);
    }

    /// The operator's word counts only where he looked: the machine is off, and its `Fencing` is open.
    fn confirm_down(&mut self, at: Site) -> bool {
        let Some(id) = self.machines.get(&at).filter(|machine| !machine.powered).and_then(|machine| machine.node)
        else {
            return false;
        };
        let Some(node) = self.newest.node(id) else { return false };
        if !matches!(node.health, cluster::Health::Fencing { .. } | cluster::Health::Fenced { .. }) {
            return false;
        }
        let incarnation = node.health.incarnation();
        // He sees to it as well that it does not come back to the generation before.
        if node.may_serve_elsewhere() {
            self.told_to_serve(id, self.generation());
        }
        let proof = Proof::Operator { reason: "seen dark".into() };
        let command = cluster::Command::RecordFenced { node: id, incarnation, proof };
        self.operator_asks(Wish::Propose { sequence: 0, command });
        true
    }

    // ── What follows from what is decided ──────────────────────────────────────────────────────────────────────────

    /// Called once for each entry, when the first member applies it.
    pub(crate) fn first_applied(&mut self, revision: Revision, events: &[Event]) {
        for event in events {
            if self.transcript.wants(Show::Events) {
                self.note(Line { show: Show::Events, text: event.to_string() });
            }
            self.measure(event);
        }
        let _ = revision;
    }

    /// How long after the end of its machine a container runs elsewhere.
    fn measure(&mut self, event: &Event) {
        let Event::ContainerRunning { container, epoch, .. } = event else { return };
        let now = self.now;
        if let Some(since) = self.dark.remove(container).filter(|(before, _)| before < epoch).map(|(_, since)| since) {
            self.counts.failovers.push(now - since);
        }
    }

    // ── Healing ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Everything that was broken from outside is mended, and nothing breaks any more.
    pub fn heal(&mut self) {
        self.healed = true;
        let now = self.now;
        self.net.heal();
        let sites: Vec<Site> = self.machines.keys().copied().collect();
        for site in sites {
            self.thaw(site);
            self.power_on(site);
            for deed in [Deed::ResumeMember(site), Deed::ResumeAgent(site)] {
                self.try_act(&deed);
            }
            if let Some(node) = self.machines[&site].node.and_then(|id| self.nodes.get_mut(&id)) {
                node.fail_starts_until = 0;
                node.slow_stops = (0, 0);
                node.hung_until = node.hung_until.min(now);
                node.lying_until = 0;
                if std::mem::take(&mut node.storage_lost_until) > now {
                    let id = node.id;
                    self.looks_at_storages(id, PROBE);
                }
            }
        }
        for member in self.members.values_mut() {
            member.crash = None;
            member.snapshots_break_until = 0;
            member.disk.full(0);
        }
        let left: Vec<NodeId> = self.nodes.values().filter(|node| node.left).map(|node| node.id).collect();
        for id in left {
            self.nodes.get_mut(&id).expect("just seen").left = false;
            self.restart_agent(id, MS);
        }
        self.leave_the_old_behind();
        self.begin_operator();
    }

    /// The switch answers "off" for the very boot that was asked for, or not at all.
    pub(crate) fn switch_off(&mut self, member: MemberId, life: u32, node: NodeId, incarnation: Incarnation) {
        self.counts.handled += 1;
        let site = self.node_site(node);
        let Some(boot) =
            self.newest.node(node).filter(|it| it.health.incarnation() == incarnation).and_then(|it| it.health.boot())
        else {
            return;
        };
        if self.machines[&site].boot == boot {
            self.power_off(site);
        }
        if self.transcript.wants(Show::Deeds) {
            self.note(Line { show: Show::Deeds, text: format!("! power switch: {site} is off") });
        }
        *self.counts.transitions.entry("power switch confirmed").or_default() += 1;
        if self.members.get(&member).is_some_and(|it| it.life == life && !it.paused && it.process.is_some()) {
            let (method, evidence) = ("switch".into(), "off".into());
            self.input(member, replica::Input::FenceConfirmed { node, incarnation, method, evidence });
        }
        self.after(SECOND, Happening::SwitchOn { node });
    }

    pub(crate) fn switch_on(&mut self, node: NodeId) {
        self.counts.handled += 1;
        let open = self.newest.node(node).is_some_and(|it| matches!(it.health, cluster::Health::Fencing { .. }));
        if open && !self.healed {
            self.after(SECOND, Happening::SwitchOn { node });
        } else {
            self.power_on(self.node_site(node));
        }
    }

    /// The operator looks after machines on which a container may still run, as far as the cluster knows, and vouches
    /// where he saw that it does not.
    pub fn operator_looks(&mut self) {
        if self.clients[self.layout.clients as usize].is_busy() {
            return;
        }
        let runs_on = |container: &cluster::Container, node: NodeId| {
            self.checks.runners(container.id).iter().any(|runner| runner.node == node)
        };
        // His word covers that incarnation and all before it: where anything of them runs, he does not give it. What was
        // adopted belongs to the one that adopted it.
        let dark = |node: NodeId, incarnation: Incarnation| {
            let covered = |it: &&std::sync::Arc<cluster::Container>| {
                it.assignment().is_some_and(|given| given.node == node && given.incarnation <= incarnation)
            };
            !self.newest.containers().filter(covered).any(|it| runs_on(it, node))
        };
        let awaits = |container: &std::sync::Arc<cluster::Container>| {
            let assignment = container.assignment()?;
            let (node, incarnation) = (assignment.node, assignment.incarnation);
            let waits = matches!(assignment.order, cluster::Order::AwaitingReceipt { .. });
            (waits && dark(node, incarnation)).then_some((node, incarnation))
        };
        let elsewhere = self.may_be_vouched_for().and_then(|id| Some((id, self.newest.node(id)?.health.incarnation())));
        let found = self.newest.containers().find_map(awaits).or(elsewhere);
        if let Some((node, incarnation)) = found {
            let proof = Proof::Operator { reason: "seen dark".into() };
            let command = cluster::Command::RecordFenced { node, incarnation, proof };
            self.operator_asks(Wish::Propose { sequence: 0, command });
        }
    }
}
