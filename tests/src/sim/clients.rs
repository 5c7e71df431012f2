//! Clients and the operator: they ask, wait, follow hints, and ask again with the same request id through another member.
//! In: asks of the schedule, answers, their own timeouts. Out: questions to members; facts for the oracles.
//! The operator works off procedures of several steps: replacing a member, adding one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cluster::apply::Done;
use cluster::command::{IntentOrder, SettingsChange};
use cluster::{
    Class, Command, ContainerId, ContainerSpec, Desired, FenceCause, MemberId, Name, NodeId, OnQuorumLoss, RequestId,
    Resources, RestartPolicy, Revision, SecretHash, Span,
};
use replica::Change;

use crate::history::History;
use crate::sim::chance::Chance;
use crate::sim::clock::{God, MS, SECOND};
use crate::sim::deeds::Ask;
use crate::sim::happenings::{Answered, Happening, Mail, ToClient, Wish};
use crate::sim::histories::About;
use crate::sim::members::session_of;
use crate::sim::net::Site;
use crate::sim::transcript::{Line, Show};
use crate::sim::world::World;

/// A question unanswered for so long is asked again elsewhere …
const TIMEOUT: u64 = 2 * SECOND;
/// … and given up after so long: its outcome is unknown.
const GIVE_UP: u64 = 40 * SECOND;
const AGAIN: u64 = 100 * MS;

pub struct Client {
    pub number: u32,
    next_sequence: u64,
    next_question: u64,
    /// The member it asks first.
    target: MemberId,
    open: BTreeMap<u64, Question>,
    /// Answered ones that an answer may still come to, and when they were asked.
    closed: BTreeMap<u64, (About, God)>,
    /// How many of its questions were answered, and how many of them it gave up.
    pub answered: u64,
    pub given_up: u64,
    chance: Chance,
}

struct Question {
    wish: Wish,
    what: String,
    attempt: u32,
    since: God,
    /// For reads: what clients had been told of when it began.
    floor: Revision,
    /// What it means to the judge of histories.
    about: Option<About>,
}

/// What the operator still has to do, in order.
#[derive(Default)]
pub struct Operator {
    steps: VecDeque<Step>,
    /// The question under way.
    asked: Option<u64>,
    tries: u32,
    replaced: Vec<MemberId>,
    /// A look is due already.
    awake: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Out of the configuration, then forgotten.
    Remove(MemberId),
    Forget(MemberId),
    /// A new member on this machine: an id, a process, a learner, a voter.
    Add(Site),
    Learn(MemberId),
    Promote(MemberId),
}

/// The operator is the client after the last.
impl Client {
    pub fn new(number: u32, seed: u64) -> Client {
        let mut chance = Chance::new(seed ^ (u64::from(number) << 32), "client");
        let target = MemberId(chance.within(1..=3));
        Client {
            number,
            next_sequence: 1,
            next_question: 1,
            target,
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
            answered: 0,
            given_up: 0,
            chance,
        }
    }
}

impl Client {
    pub(crate) fn is_busy(&self) -> bool {
        !self.open.is_empty()
    }

    /// The name of the container that an open question is a look at.
    pub(crate) fn looks_at(&self, question: u64) -> Option<Arc<str>> {
        match &self.open.get(&question)?.wish {
            Wish::Look { name, .. } => Some(name.clone()),
            _ => None,
        }
    }
}

impl Operator {
    pub(crate) fn replace(&mut self, member: MemberId) {
        if !self.replaced.contains(&member) {
            self.replaced.push(member);
            self.steps.push_back(Step::Remove(member));
            self.steps.push_back(Step::Forget(member));
        }
    }

    pub(crate) fn queue(&mut self, step: Step) {
        self.steps.push_back(step);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.steps.is_empty() && self.asked.is_none()
    }
}

impl World {
    // ── Clients ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Whether there was anything to ask: a name that exists, a node that exists.
    pub(crate) fn ask(&mut self, client: u32, ask: &Ask) -> bool {
        let wish = match ask {
            Ask::Read => Wish::Read,
            Ask::Look { name, stale } => Wish::Look { name: name.clone(), stale: *stale },
            ask => match self.command_of(ask) {
                Some(command) => Wish::Propose { sequence: 0, command },
                None => return false,
            },
        };
        let about = |wish: &Wish| ask.name().and_then(|name| About::of(client, name, wish));
        self.begin_question(client, wish, ask.to_string(), about);
        true
    }

    pub(crate) fn begin_wish(&mut self, client: u32, wish: Wish) {
        let what = format!("{wish:?}");
        self.begin_question(client, wish, what, |_| None);
    }

    /// `about`: what the question means to the judge of histories.
    fn begin_question(
        &mut self,
        client: u32,
        wish: Wish,
        what: String,
        about: impl FnOnce(&Wish) -> Option<About>,
    ) -> u64 {
        let (now, floor) = (self.now, self.checks.told());
        let members: Vec<MemberId> =
            self.members.values().filter(|m| m.retired.is_none() && self.is_current(m.id)).map(|m| m.id).collect();
        let asker = &mut self.clients[client as usize];
        let wish = match wish {
            Wish::Propose { command, .. } => {
                asker.next_sequence += 1;
                Wish::Propose { sequence: asker.next_sequence - 1, command }
            }
            wish => wish,
        };
        // Every member answers looks.
        if matches!(wish, Wish::Look { .. }) {
            asker.target = *asker.chance.pick(&members);
        }
        let question = asker.next_question;
        asker.next_question += 1;
        asker.open.insert(question, Question { about: about(&wish), wish, what, attempt: 0, since: now, floor });
        self.send_question(client, question);
        question
    }

    fn send_question(&mut self, client: u32, question: u64) {
        let asker = &mut self.clients[client as usize];
        let Some(open) = asker.open.get_mut(&question) else { return };
        open.attempt += 1;
        let (attempt, member) = (open.attempt, asker.target);
        let ask = Box::new(open.wish.clone());
        let there = self.member_site(member);
        self.toss(Site(0), there, || {
            let mail = Mail::Question { client, question, attempt, ask: ask.clone() };
            Happening::Mail { member, mail }
        });
        self.after(TIMEOUT, Happening::Client { client, what: ToClient::Timeout { question, attempt } });
    }

    pub(crate) fn client_event(&mut self, client: u32, what: ToClient) {
        let now = self.now;
        let members: Vec<MemberId> =
            self.members.values().filter(|m| m.retired.is_none() && self.is_current(m.id)).map(|m| m.id).collect();
        let asker = &mut self.clients[client as usize];
        match what {
            ToClient::Timeout { question, attempt } => {
                if asker.open.get(&question).is_some_and(|open| open.attempt == attempt) {
                    asker.target = *asker.chance.pick(&members);
                    self.ask_again(client, question, 0);
                }
            }
            ToClient::Again { question, attempt } => {
                if asker.open.get(&question).is_some_and(|open| open.attempt == attempt) {
                    self.send_question(client, question);
                }
            }
            ToClient::Answer { question, attempt, answer } => {
                let Some(open) = asker.open.get(&question) else {
                    return self.late_answer(client, question, &answer);
                };
                let outcome = matches!(&*answer, Answered::Applied { .. } | Answered::Seen { .. });
                if let Some(about) = open.about.as_ref().filter(|_| outcome) {
                    self.histories.ended(client, about, open.since, now, Some(&answer));
                    asker.closed.insert(question, (about.clone(), open.since));
                }
                // Whatever attempt it answers: an outcome is an outcome.
                match *answer {
                    Answered::Applied { revision, outcome } => {
                        let Wish::Propose { sequence, .. } = open.wish else { return };
                        let request = RequestId { session: session_of(client), sequence };
                        let text = match &outcome {
                            Ok(_) => format!("done at {revision}"),
                            Err(rejected) => format!("refused at {revision}: {rejected}"),
                        };
                        self.checks.answered(now, request, revision, &outcome);
                        self.finish(client, question, &text, Some(outcome.ok()));
                    }
                    Answered::State { revision } => {
                        let (floor, member) = (open.floor, asker.target);
                        self.checks.read(now, member, floor, revision);
                        self.finish(client, question, &format!("read at {revision}"), None);
                    }
                    Answered::Seen { revision, .. } => {
                        if let Wish::Look { stale: false, .. } = open.wish {
                            let (floor, member) = (open.floor, asker.target);
                            self.checks.read(now, member, floor, revision);
                        }
                        self.finish(client, question, &format!("seen at {revision}"), None);
                    }
                    Answered::Done => self.finish(client, question, "done", Some(Some(Done::Nothing))),
                    Answered::Refused(why) => self.finish(client, question, &format!("refused: {why}"), Some(None)),
                    _ if open.attempt != attempt => {}
                    Answered::NotLeader { hint } => {
                        asker.target =
                            hint.filter(|hint| members.contains(hint)).unwrap_or_else(|| *asker.chance.pick(&members));
                        self.ask_again(client, question, if hint.is_some() { 10 * MS } else { AGAIN });
                    }
                    Answered::Again => {
                        asker.target = *asker.chance.pick(&members);
                        self.ask_again(client, question, AGAIN);
                    }
                }
            }
        }
    }

    /// Answers to a repetition come late and must still agree.
    fn late_answer(&mut self, client: u32, question: u64, answer: &Answered) {
        if let (Some((about, since)), Answered::Applied { .. }) =
            (self.clients[client as usize].closed.get(&question), answer)
        {
            self.histories.ended(client, about, *since, self.now, Some(answer));
        }
        if let Answered::Applied { revision, .. } = answer
            && *revision > self.checks.applied_revision()
        {
            let what = format!("client {client} is told of {revision}, which nobody has applied");
            self.checks.violate(self.now, "AckDurable", what);
        }
    }

    fn ask_again(&mut self, client: u32, question: u64, after: u64) {
        let now = self.now;
        let asker = &mut self.clients[client as usize];
        let Some(open) = asker.open.get(&question) else { return };
        if now - open.since > GIVE_UP {
            if let Some(Question { about: Some(about), since, .. }) = asker.open.remove(&question) {
                self.histories.ended(client, &about, since, now, None);
            }
            asker.given_up += 1;
            return self.operator_heard(client, question, None);
        }
        let attempt = open.attempt;
        self.after(after, Happening::Client { client, what: ToClient::Again { question, attempt } });
    }

    /// `outcome`: of a proposal or a change, if it was carried out.
    fn finish(&mut self, client: u32, question: u64, text: &str, outcome: Option<Option<Done>>) {
        let asker = &mut self.clients[client as usize];
        let Some(open) = asker.open.remove(&question) else { return };
        asker.answered += 1;
        if self.transcript.wants(Show::Clients) {
            let times = if open.attempt > 1 { format!(" (asked {} times)", open.attempt) } else { String::new() };
            self.note(Line { show: Show::Clients, text: format!("client {client}: {}: {text}{times}", open.what) });
        }
        self.operator_heard(client, question, outcome.flatten());
    }

    /// The generation is over. What its clients asked and were not told, they never will be; they ask the next one.
    pub(crate) fn close_books(&mut self) {
        let now = self.now;
        for client in &mut self.clients {
            for Question { about, since, .. } in std::mem::take(&mut client.open).into_values() {
                if let Some(about) = about {
                    self.histories.ended(client.number, &about, since, now, None);
                }
                client.given_up += 1;
            }
            client.closed.clear();
        }
        self.histories.close();
    }

    /// What clients saw; the questions that are still open have no answer.
    pub(crate) fn take_history(&mut self) -> History {
        for client in &self.clients {
            for Question { about, since, .. } in client.open.values() {
                if let Some(about) = about {
                    self.histories.ended(client.number, about, *since, self.now, None);
                }
            }
        }
        std::mem::take(&mut self.histories).into_history()
    }

    /// Questions that still wait for an answer, in words.
    pub fn open_questions(&self) -> Vec<String> {
        let told = |client: &Client, it: &Question| {
            format!("client {} asks for the {}th time: {}", client.number, it.attempt, it.what)
        };
        self.clients.iter().flat_map(|client| client.open.values().map(move |it| told(client, it))).collect()
    }

    fn container(&self, name: &Arc<str>) -> Option<ContainerId> {
        self.newest.container_named(&Name::new(name).ok()?).map(|container| container.id)
    }

    fn node_at(&self, site: Site) -> Option<NodeId> {
        self.machines.get(&site)?.node
    }

    fn command_of(&self, ask: &Ask) -> Option<Command> {
        let intent = |site: &Site, intent| Some(Command::SetNodeIntent { node: self.node_at(*site)?, intent });
        let desired =
            |name: &Arc<str>, desired| Some(Command::SetDesired { container: self.container(name)?, desired });
        Some(match ask {
            Ask::Create { name, memory_mib, policy, preferred } => {
                let preferred = preferred.and_then(|site| self.node_at(site));
                let spec = Arc::new(spec(name, *memory_mib, *policy, preferred)?);
                Command::CreateContainer { spec, annotations: Arc::default(), desired: Desired::Running }
            }
            Ask::Start(name) => desired(name, Desired::Running)?,
            Ask::Stop(name) => desired(name, Desired::Stopped)?,
            Ask::Delete(name) => desired(name, Desired::Deleted)?,
            Ask::Restart(name) => Command::RestartContainer { container: self.container(name)? },
            Ask::Move { name, to } => {
                let target = match to {
                    Some(site) => Some(self.node_at(*site)?),
                    None => None,
                };
                Command::MoveContainer { container: self.container(name)?, target }
            }
            Ask::Annotate { name, key, value } => {
                let changes = BTreeMap::from([(key.to_string(), Some(value.to_string()))]);
                Command::AnnotateContainer { container: self.container(name)?, changes }
            }
            Ask::SetPolicy { name, policy } => {
                Command::SetOnQuorumLoss { container: self.container(name)?, on_quorum_loss: *policy }
            }
            Ask::Cordon(site) => intent(site, IntentOrder::Cordon)?,
            Ask::Uncordon(site) => intent(site, IntentOrder::Uncordon)?,
            Ask::Drain(site) => intent(site, IntentOrder::Drain)?,
            Ask::Maintain(site) => intent(site, IntentOrder::Maintenance)?,
            Ask::Return(site) => intent(site, IntentOrder::Return)?,
            Ask::Fence(site) => {
                let node = self.node_at(*site)?;
                let incarnation = self.newest.node(node)?.health.incarnation();
                let cause = FenceCause::Operator { reason: "it is to be replaced".into() };
                Command::BeginFencing { node, incarnation, cause }
            }
            Ask::SetRole(site, role) => Command::SetNodeRole { node: self.node_at(*site)?, role: *role },
            Ask::SetProfile(profile) => {
                let settings = Box::new(SettingsChange { terms: Some(profile.terms()), ..SettingsChange::default() });
                Command::UpdateSettings { settings }
            }
            Ask::ReleaseBrake => Command::ReleaseBrake,
            Ask::Read | Ask::Look { .. } => return None,
        })
    }

    // ── The operator ───────────────────────────────────────────────────────────────────────────────────────────────

    fn operator_client(&self) -> u32 {
        self.layout.clients
    }

    pub(crate) fn begin_operator(&mut self) {
        if !std::mem::replace(&mut self.operator.awake, true) {
            self.after(MS, Happening::Operator);
        }
    }

    /// Takes up the next step, if none is under way.
    pub(crate) fn operate(&mut self) {
        self.operator.awake = false;
        if self.operator.asked.is_some() {
            return;
        }
        let Some(step) = self.operator.steps.front().cloned() else { return };
        let client = self.operator_client();
        let membership = self.newest.membership();
        let known = |id: &MemberId| membership.votes(*id) || membership.learners.contains(id);
        let wish = match &step {
            Step::Remove(id) if known(id) => Some(Wish::Change(Change::Remove(*id))),
            Step::Forget(id) if self.newest.member(*id).is_some() => {
                Some(Wish::Propose { sequence: 0, command: Command::RemoveMember { member: *id } })
            }
            Step::Add(site) if self.lives_on(*site).is_none() => {
                let number = self.newest.truth().next_member;
                let command = Command::AddMember {
                    name: Name::new(&format!("m{number}")).expect("letters and digits"),
                    peer_address: format!("m{number}:7441").into(),
                    api_address: format!("m{number}:7440").into(),
                    secret: SecretHash(u128::from(number)),
                };
                Some(Wish::Propose { sequence: 0, command })
            }
            Step::Learn(id) if !known(id) => Some(Wish::Change(Change::AddLearner(*id))),
            Step::Promote(id) if !membership.votes(*id) => Some(Wish::Change(Change::Promote(*id))),
            _ => None,
        };
        match wish {
            Some(wish) => {
                let question = self.begin_question(client, wish, format!("{step:?}"), |_| None);
                self.operator.asked = Some(question);
            }
            None => self.step_done(None),
        }
    }

    /// The member that lives on a machine and is not retired.
    pub(crate) fn lives_on(&self, site: Site) -> Option<MemberId> {
        self.members.values().find(|member| member.site == site && member.retired.is_none()).map(|member| member.id)
    }

    fn operator_heard(&mut self, client: u32, question: u64, outcome: Option<Done>) {
        if client != self.operator_client() || self.operator.asked != Some(question) {
            return;
        }
        self.operator.asked = None;
        match outcome {
            Some(done) => self.step_done(Some(done)),
            // Not now: a voter lags, another change is under way, no leader.
            None if self.operator.tries < 200 => {
                self.operator.tries += 1;
                self.operator.awake = true;
                self.after(SECOND / 2, Happening::Operator);
            }
            None => self.step_done(None),
        }
    }

    fn step_done(&mut self, done: Option<Done>) {
        self.operator.tries = 0;
        let Some(step) = self.operator.steps.pop_front() else { return };
        match (step, done) {
            (Step::Add(site), Some(Done::Member(id))) => {
                self.add_member_host(id, site, None);
                if let Some(machine) = self.machines.get_mut(&site) {
                    machine.member = Some(id);
                }
                self.operator.steps.push_front(Step::Promote(id));
                self.operator.steps.push_front(Step::Learn(id));
                self.supervise(id, MS);
            }
            (Step::Remove(id), _) => {
                // Out of the configuration: its process is of no more use, and its machine gets a new one.
                let site = self.member_site(id);
                if !self.newest.membership().votes(id) {
                    if let Some(member) = self.members.get_mut(&id)
                        && member.retired.is_none()
                    {
                        member.retired = Some("removed".to_owned());
                        self.stop_member(id, false);
                    }
                    self.operator.steps.push_back(Step::Add(site));
                }
            }
            _ => {}
        }
        if !self.operator.steps.is_empty() {
            self.begin_operator();
        }
    }
}

fn spec(name: &str, memory_mib: u64, policy: OnQuorumLoss, preferred: Option<NodeId>) -> Option<ContainerSpec> {
    Some(ContainerSpec {
        name: Name::new(name).ok()?,
        template: Name::new("base").ok()?,
        storage: Name::new("shared").ok()?,
        command: Arc::from([]),
        environment: Arc::default(),
        resources: Resources { cpu_millis: 100, memory_bytes: memory_mib << 20 },
        class: Class::Guaranteed,
        priority: 500,
        possible_owners: Arc::from([]),
        preferred_owners: preferred.map(|node| Arc::from([node])).into_iter().collect(),
        restart: RestartPolicy::default(),
        on_quorum_loss: policy,
        stop_grace: Span::seconds(2),
        application_templates: Arc::default(),
    })
}
