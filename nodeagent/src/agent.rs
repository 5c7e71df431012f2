//! The circle: one task owns the mind, hands it what arrives, and carries out what it orders, in order.
//! Runs on a thread of its own together with the heartbeats, so that nothing the hands do delays either; everything that
//! can wait (disk, containers, the leader's words) waits on other threads.
//! Absent: no choice. What an effect means is the business of `link`, `work`, `guarding` and `journal`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster::agent::MembershipIdentity;
use cluster::{AgentRun, Exit, FencingClass, MemberId, NodeFacts, Profile};
use decide::{Effect, Happened, Input, Journal};
use tokio::runtime::{Builder, Handle, Runtime as Threads};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::config::{Config, OnShutdown};
use crate::control::{ContainerStatus, Control, GuardStatus, Request, Status};
use crate::drivers::guard::GuardLink;
use crate::errands::Errands;
use crate::guarding::{self, Guarding, GuardingError};
use crate::hands::Driven;
use crate::identity::{self, Identity, IdentityError};
use crate::journal::{Found, JournalError, Keeper, StateLock, Writer};
use crate::link::{self, Pulse, leader::Leader, members::Members};
use crate::shelves::Shelves;
use crate::surroundings::Surroundings;
use crate::work::{StartOrder, Work};
use crate::{chain, clock};

/// How often the slot is looked at while nothing is awaited from the guard, and while something is.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOK_SOON: Duration = Duration::from_millis(4);
/// How long after a word to the guard its answer is looked for that often.
const LOOK_SOON_FOR: Duration = Duration::from_secs(1);
/// Beyond every lease and every election: somebody may have to help.
const SILENCE_SAID_AFTER: Duration = Duration::from_secs(15);
/// Before the mind orders its first wake.
const FIRST_WAKE: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Generation(#[from] decide::OtherGeneration),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Guarding(#[from] GuardingError),
    #[error("{operation}")]
    Start { operation: &'static str, source: io::Error },
    #[error("the node had not left after {} s; its containers end with their lease", .0.as_secs())]
    NotLeft(Duration),
}

/// How an agent's life ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Containers run on; the next agent adopts them.
    Kept,
    /// Nothing runs here, and the cluster knows or needs not know.
    Left,
}

fn start_error(operation: &'static str) -> impl FnOnce(io::Error) -> AgentError {
    move |source| AgentError::Start { operation, source }
}

/// Runs the agent of this node until it is told to end.
pub fn run(config: Config) -> Result<Ended, AgentError> {
    let lock = StateLock::take(&config.state_dir)?;
    let identity = Identity::read(&config.identity)?;
    identity::claim_state_dir(&config.state_dir, &identity)?;
    let (keeper, found) = Keeper::open(&config.state_dir, Journal::fresh(config.boot, Profile::Default.terms()))?;
    if let Found::Damaged { reason, set_aside } = &found {
        tracing::error!(
            reason,
            set_aside = %set_aside.display(),
            "journal is damaged: nothing is adopted, whatever runs here ends, and the node registers anew"
        );
    }
    keeper.sum().admits(identity.generation)?;
    let guarding = Guarding::begin(&config)?;
    // What waits waits here; the mind and the heartbeats have the calling thread.
    let threads = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("hands")
        .enable_all()
        .build()
        .map_err(start_error("start threads"))?;
    let quiet = Builder::new_current_thread().enable_all().build().map_err(start_error("start threads"))?;
    let outcome = quiet.block_on(live(config, identity, keeper, guarding, &threads));
    // Calls under way are not waited for: what they began is found and adopted, or ended, by the next agent.
    threads.shutdown_background();
    drop(lock);
    outcome
}

async fn live(
    config: Config,
    identity: Identity,
    keeper: Keeper,
    guarding: Guarding,
    threads: &Threads,
) -> Result<Ended, AgentError> {
    let (inputs, mut arrived) = mpsc::unbounded_channel();
    let (ask, mut requests) = mpsc::unbounded_channel();
    let control = {
        let _within = threads.enter();
        Control::listen(&config.run_dir, ask).map_err(start_error("listen on the control socket"))?
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(start_error("listen for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(start_error("listen for signals"))?;
    let mut circle = Circle::begin(&config, identity, keeper, guarding, inputs, threads.handle())?;
    let mut leave_by: Option<Instant> = None;
    loop {
        let next = circle.next_look().min(circle.wake_at());
        let mut leave = false;
        tokio::select! {
            biased;
            _ = terminate.recv() => leave = true,
            _ = interrupt.recv() => leave = true,
            Some(input) = arrived.recv() => circle.take(input),
            Some(request) = requests.recv() => match request {
                Request::Status(answer) => drop(answer.send(circle.status())),
                Request::Leave => circle.take(Input::Leave),
            },
            () = sleep_until(next) => circle.take_time(),
            () = sleep_until(leave_by.unwrap_or(next)), if leave_by.is_some() => {
                circle.end();
                return Err(AgentError::NotLeft(config.leave_within));
            }
        }
        if leave && (config.on_shutdown == OnShutdown::Keep || leave_by.is_some()) {
            tracing::info!("told to end; containers run on");
            circle.end();
            return Ok(Ended::Kept);
        }
        if leave {
            leave_by = Some(Instant::now() + config.leave_within);
            circle.take(Input::Leave);
        }
        if circle.farewell {
            tracing::info!("left");
            circle.end().dismiss();
            control.say_left().await;
            return Ok(Ended::Left);
        }
    }
}

/// The mind and everything it gives orders to.
struct Circle {
    identity: Identity,
    state_dir: Arc<Path>,
    facts: NodeFacts,
    /// The runtimes have been proven; before that nobody is told what this node can do.
    facts_are_whole: bool,
    seek_wanted: bool,
    mind: decide::Agent,
    guarding: Guarding,
    journal: Writer,
    members: Members,
    leader: Leader,
    work: Work,
    surroundings: Surroundings,
    threads: Handle,
    session: Option<MemberId>,
    /// When a member last said anything.
    heard: Instant,
    wake: Instant,
    look: Instant,
    look_soon_until: Instant,
    /// The least that was left of a lease when it was renewed.
    least_left: Option<Duration>,
    /// As the slot held them when the class was last told to the mind.
    guard_facts: u64,
    farewell: bool,
}

impl Circle {
    fn begin(
        config: &Config,
        identity: Identity,
        keeper: Keeper,
        guarding: Guarding,
        inputs: mpsc::UnboundedSender<Input>,
        threads: &Handle,
    ) -> Result<Circle, AgentError> {
        // Read before the class is worked out from them: what changes in between is seen at the next look.
        let guard_facts = guarding.link().slot().facts();
        let facts = facts_without_runtimes(config, &guarding, keeper.sum());
        let shelves = Shelves::default();
        let hands = Arc::new(Driven::new(config, &identity, &guarding, shelves.clone()));
        let work = Work::new(hands.clone(), inputs.clone(), config.workers, threads.clone());
        follow_exits(&hands, &work, guarding.link()).map_err(start_error("start a thread"))?;
        let prove = {
            let (inputs, mut facts) = (inputs.clone(), facts.clone());
            move || {
                let proven = hands.prove();
                facts.runtimes = proven.works.into_iter().map(Arc::from).collect();
                facts.runtimes_refused = proven.refused.into_iter().map(Arc::from).collect();
                let _ = inputs.send(Input::Facts(Box::new(facts)));
            }
        };
        threads.spawn_blocking(prove);

        let seeds: Vec<String> =
            [identity::known_members(&config.state_dir), config.members.clone(), identity.members.clone()].concat();
        let pulse = Pulse::default();
        let members = Members::new(link::hello(&identity), &seeds, inputs.clone(), pulse.clone());
        let leader = {
            let _within = threads.enter();
            let errands = Errands::start(identity.node, shelves.clone()).map_err(start_error("start a thread"))?;
            Leader::start(link::hello(&identity), seeds, inputs.clone(), pulse, errands)
        };
        let surroundings = Surroundings::start(identity.node, inputs.clone(), shelves, threads);
        // A version 4 UUID; its fixed bits keep it from being 0.
        let run = AgentRun(uuid::Uuid::new_v4().as_u64_pair().0);
        let settings = decide::Config {
            node: identity.node,
            generation: identity.generation,
            boot: config.boot,
            run,
            facts: facts.clone(),
            guard_found: guarding.was_found(),
        };
        let mind = decide::Agent::new(settings, keeper.sum().clone());
        let journal = Writer::start(keeper, move |sequence| {
            let _ = inputs.send(Input::JournalDurable { sequence });
        })
        .map_err(start_error("start a thread"))?;
        let now = Instant::now();
        let mut circle = Circle {
            identity,
            state_dir: config.state_dir.as_path().into(),
            facts,
            facts_are_whole: false,
            seek_wanted: false,
            mind,
            guarding,
            journal,
            members,
            leader,
            work,
            surroundings,
            threads: threads.clone(),
            session: None,
            heard: now,
            wake: now + FIRST_WAKE,
            look: now,
            look_soon_until: now,
            least_left: None,
            guard_facts,
            farewell: false,
        };
        circle.take(Input::Tick);
        Ok(circle)
    }

    fn wake_at(&self) -> Instant {
        self.wake
    }

    fn next_look(&self) -> Instant {
        self.look
    }

    /// Time passed: looks at the slot if that is due, and tells the mind.
    fn take_time(&mut self) {
        let now = Instant::now();
        if now >= self.look {
            self.look = now + if now < self.look_soon_until { LOOK_SOON } else { LOOK_EVERY };
            if let Some(says) = self.guarding.look() {
                self.take(Input::Guard(says));
            }
            self.look_at_class();
        }
        if now >= self.wake {
            // Replaced by the mind if there is anything to wake for.
            self.wake = now + Duration::from_secs(3_600);
            self.take(Input::Tick);
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Facts(proven) => return self.take_proven(*proven),
            Input::LeaderConnected { member } => {
                self.session = Some(member);
                self.heard = Instant::now();
                if let Some(address) = self.leader.address() {
                    self.members.also(address);
                }
            }
            Input::LeaderLost => self.session = None,
            Input::Reply(_) => self.heard = Instant::now(),
            _ => {}
        }
        self.tell_mind(input);
    }

    /// The runtimes have been tried; the class may have changed meanwhile.
    fn take_proven(&mut self, proven: NodeFacts) {
        self.facts = with_class(proven, &self.guarding);
        self.facts_are_whole = true;
        if std::mem::take(&mut self.seek_wanted) {
            self.leader.seek();
        }
        self.tell_mind(Input::Facts(Box::new(self.facts.clone())));
    }

    fn tell_mind(&mut self, input: Input) {
        let (now, before) = (clock::now(), self.mind.lease_end());
        let effects = self.mind.handle(now, input);
        if let Some(end) = before.filter(|end| self.mind.lease_end() > Some(*end)) {
            let left = clock::duration(end.since(now));
            self.least_left = Some(self.least_left.map_or(left, |least| least.min(left)));
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    /// The class goes with an end that overran, and comes back with rehearsals that did not: the mind hears of both.
    fn look_at_class(&mut self) {
        let facts = self.guarding.link().slot().facts();
        if facts == self.guard_facts {
            return;
        }
        self.guard_facts = facts;
        let facts = with_class(self.facts.clone(), &self.guarding);
        if facts.class != self.facts.class {
            tracing::warn!(reason = %facts.class_reason, "fencing class: {:?} -> {:?}", self.facts.class, facts.class);
        }
        self.facts = facts;
        self.tell_mind(Input::Facts(Box::new(self.facts.clone())));
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Heartbeat { to, heartbeat } => self.members.send(to, heartbeat),
            Effect::Membership(membership) => self.follow(membership),
            Effect::ToLeader(said) => self.leader.say(&said),
            Effect::SeekLeader if self.facts_are_whole => self.leader.seek(),
            Effect::SeekLeader => self.seek_wanted = true,
            Effect::Journal { sequence, record } => self.journal.append(sequence, record),
            Effect::Deadline { incarnation, at } => {
                self.guarding.deadline(incarnation, at);
                if at.is_none() {
                    self.look_soon();
                }
            }
            Effect::GuardTerms { lease, kill } => {
                self.guarding.terms(lease, kill, self.mind.journal().terms.margin);
                self.look_soon();
            }
            Effect::Latch { incarnation } => {
                self.guarding.latch(incarnation);
                self.look_soon();
            }
            Effect::Look { ask } => self.work.look(ask),
            Effect::Start { container, epoch, incarnation, policy, spec } => {
                self.work.start(StartOrder { key: (container, epoch), incarnation, policy, spec });
            }
            Effect::Stop { container, epoch, grace } => self.work.stop(container, epoch, grace),
            Effect::Prepare { container, epoch, spec } => self.work.prepare(container, epoch, spec),
            Effect::Unprepare { container, epoch } => self.work.unprepare(container, epoch),
            Effect::Watch(watch) => self.surroundings.watch(watch),
            Effect::Farewell => self.farewell = true,
            Effect::Wake { at } => self.wake = Instant::now() + clock::until(at),
            Effect::Say(line) => tracing::info!(node = %self.identity.node, "{line}"),
        }
    }

    fn follow(&mut self, membership: Arc<MembershipIdentity>) {
        self.members.follow(&membership);
        self.leader.candidates(membership.addresses.iter().map(|(_, address)| address.to_string()));
        let state_dir = self.state_dir.clone();
        self.threads.spawn_blocking(move || {
            if let Err(error) = identity::remember_members(&state_dir, &membership) {
                tracing::warn!(error = %chain(&error), "the members heard of could not be noted");
            }
        });
    }

    fn look_soon(&mut self) {
        let now = Instant::now();
        self.look_soon_until = now + LOOK_SOON_FOR;
        self.look = now + LOOK_SOON;
    }

    /// Lets go of everything but the guard, which is given back.
    fn end(self) -> Guarding {
        self.journal.close();
        self.guarding
    }

    /// What a person should know and do, if anything.
    fn trouble(&self) -> Option<String> {
        let silence = self.heard.elapsed();
        if self.session.is_some() || silence < SILENCE_SAID_AFTER {
            return None;
        }
        Some(format!(
            "no member has answered for {} s at any of {}; if none of them is a member any more, start the agent again \
             with `--member HOST:PORT` of one that is (`peer` in `quoratectl cluster status`): its containers are not \
             touched by that",
            silence.as_secs(),
            self.leader.asked().join(", "),
        ))
    }

    fn status(&self) -> Status {
        let slot = self.guarding.link().slot().state();
        let left = |end: cluster::Moment| (end.0 as i64 - clock::now().0 as i64) / 1_000_000;
        let incarnation = self.mind.incarnation();
        let begun = self.mind.journal().begun.iter();
        let containers = begun.flat_map(|(container, epochs)| {
            epochs.iter().map(|(epoch, begun)| ContainerStatus {
                container: container.0,
                epoch: epoch.0,
                ran: begun.ran,
            })
        });
        Status {
            node: self.identity.node.0,
            name: self.identity.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            standing: self.mind.standing().to_owned(),
            incarnation: incarnation.0,
            boot: self.mind.journal().boot.to_string(),
            lease_left_ms: self.mind.lease_end().map(left),
            lease_left_least_ms: self.least_left.map(|left| i64::try_from(left.as_millis()).unwrap_or(i64::MAX)),
            leader: self.session.map(|member| member.0),
            trouble: self.trouble(),
            guard: GuardStatus {
                pid: slot.guard_pid,
                alive: self.guarding.link().is_alive(),
                latched: slot
                    .incarnations
                    .iter()
                    .any(|entry| entry.incarnation == incarnation.0 && entry.latched.is_some()),
                lateness_us: slot.lateness_ns / 1_000,
            },
            class: format!("{:?}", self.facts.class),
            class_reason: self.facts.class_reason.to_string(),
            runtimes: self.facts.runtimes.iter().map(ToString::to_string).collect(),
            runtimes_refused: self.facts.runtimes_refused.iter().map(ToString::to_string).collect(),
            containers: containers.collect(),
            busy: self.work.busy(),
        }
    }
}

/// What this node says of itself before any runtime was proven.
fn facts_without_runtimes(config: &Config, guarding: &Guarding, journal: &Journal) -> NodeFacts {
    let unproven = NodeFacts {
        class: FencingClass::F0,
        class_reason: "".into(),
        capacity: config.capacity,
        runtimes: [].into(),
        runtimes_refused: [].into(),
        version: env!("CARGO_PKG_VERSION").into(),
        terms: journal.terms,
    };
    with_class(unproven, guarding)
}

/// `facts` with the class the guard is good for at this moment.
fn with_class(facts: NodeFacts, guarding: &Guarding) -> NodeFacts {
    let class = guarding.link().fencing_class();
    NodeFacts {
        class: if class.enforced { FencingClass::F1 } else { FencingClass::F0 },
        class_reason: class.reason.into(),
        ..facts
    }
}

/// Tells the mind of every container that ends by itself.
fn follow_exits(hands: &Arc<Driven>, work: &Work, link: &Arc<GuardLink>) -> io::Result<()> {
    let (sender, exits) = std::sync::mpsc::channel();
    let (hands, work, link) = (hands.clone(), work.clone(), link.clone());
    std::thread::Builder::new().name("exits".to_owned()).spawn(move || {
        hands.watch(sender);
        for exited in exits {
            let exit = exit_of(exited.code);
            // The kernel kills with the guard, not before it.
            let guarded = exit != Exit::Signal(rustix::process::Signal::KILL.as_raw()) || guarding::is_there(&link);
            let what = if guarded { Happened::Exited { exit } } else { Happened::EndedWithGuard };
            work.ended((exited.workload.container, exited.workload.epoch), what);
        }
    })?;
    Ok(())
}

/// A code above 128 is a signal, by the convention of shells and starters.
fn exit_of(code: i32) -> Exit {
    match code {
        129..=192 => Exit::Signal(code - 128),
        code => Exit::Code(code),
    }
}
