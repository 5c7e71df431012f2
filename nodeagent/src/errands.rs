//! Work beside the containers that somebody waits for: templates are imported, verified, discarded, in order, one at a time, on
//! a thread of its own; whether they are there is looked at on another, for nobody waits for an import to hear that.
//! In: errands of a session. Out: words on the same session; the last one says what came of it.
//! Ends with the session: whoever asks again through the next leader finds on the storage what was done.
//! Absent: the mind; no container waits for an errand and no errand for a container.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use cluster::NodeId;
use proto::wire::errand_word::Word;
use proto::wire::{self, TemplatePresence as Is, TemplateTreatment, errand, from_agent};
use template::{Http, ImportError, Imported, Layer, Limits, Order, Phase, Policy, Progress, Treat};
use tokio::sync::mpsc as words;

use crate::copies;
use crate::shelves::Shelves;

type Words = words::Sender<wire::FromAgent>;

/// Does errands. Cheap to clone.
#[derive(Clone)]
pub struct Errands {
    work: Lane,
    looks: Lane,
}

type Lane = mpsc::Sender<(wire::Errand, Session)>;

/// One session's errands: called off when this is dropped.
pub struct OfSession {
    errands: Errands,
    session: Session,
}

#[derive(Clone)]
struct Session {
    words: Words,
    gone: Arc<Mutex<Gone>>,
}

#[derive(Default)]
struct Gone {
    all: bool,
    errands: BTreeSet<u64>,
}

impl Errands {
    /// Starts the threads; they end with the last of these and of their sessions.
    pub fn start(node: NodeId, shelves: Shelves) -> io::Result<Errands> {
        let lane = |name: &str| -> io::Result<Lane> {
            let (orders, taken) = mpsc::channel::<(wire::Errand, Session)>();
            let shelves = shelves.clone();
            std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                for (errand, session) in taken {
                    session.run(node, &shelves, errand);
                }
            })?;
            Ok(orders)
        };
        Ok(Errands { work: lane("errands")?, looks: lane("looks")? })
    }

    /// Those of a session that says its words by `words`.
    pub fn of_session(&self, words: Words) -> OfSession {
        OfSession { errands: self.clone(), session: Session { words, gone: Arc::default() } }
    }
}

impl OfSession {
    pub fn take(&self, errand: wire::Errand) {
        let lane = match errand.what {
            Some(errand::What::SurveyTemplates(_)) => &self.errands.looks,
            _ => &self.errands.work,
        };
        // A thread ends only when nobody can ask it any more.
        let _ = lane.send((errand, self.session.clone()));
    }

    pub fn cancel(&self, errand: u64) {
        self.session.gone().errands.insert(errand);
    }
}

impl Drop for OfSession {
    fn drop(&mut self) {
        self.session.gone().all = true;
    }
}

impl Session {
    fn gone(&self) -> MutexGuard<'_, Gone> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_gone(&self, errand: u64) -> bool {
        let gone = self.gone();
        gone.all || gone.errands.contains(&errand)
    }

    fn run(&self, node: NodeId, shelves: &Shelves, asked: wire::Errand) {
        let id = asked.id;
        if self.is_gone(id) {
            return;
        }
        let word = match asked.what {
            Some(errand::What::ImportTemplate(import)) => self.import(node, shelves, id, import),
            Some(errand::What::SurveyTemplates(asked)) => found_in(asked, |place| Ok(copies::look(place))),
            Some(errand::What::VerifyTemplates(asked)) => found_in(asked, |place| {
                let found = copies::verify(place, &mut |progress| self.goes_on(id, progress))?;
                if let Is::Present | Is::Damaged = found.presence() {
                    let is_whole = found.presence() == Is::Present;
                    shelves.was_read(Path::new(&place.storage_path), &place.digest, is_whole);
                }
                Ok(found)
            }),
            Some(errand::What::DiscardTemplates(asked)) => {
                // One whose session is over leaves it to the next.
                found_in(asked, |place| match self.is_gone(id) {
                    true => Err(ImportError::CalledOff),
                    false => {
                        let found = copies::discard(place, node);
                        shelves.changed();
                        Ok(found)
                    }
                })
            }
            None => failed("unknown-errand", "this agent does not know what it is asked; a newer one may".to_owned()),
        };
        // A session that is over hears nothing.
        let _ = self.words.blocking_send(said(id, word));
    }

    fn import(&self, node: NodeId, shelves: &Shelves, id: u64, asked: wire::ImportTemplate) -> Word {
        tracing::info!(source = asked.source, storage = asked.storage_path, "imports a template");
        let order = match order(node, &asked) {
            Ok(order) => order,
            Err(text) => return failed("invalid-field", text),
        };
        match template::import(&order, &mut |progress| self.goes_on(id, progress)) {
            Ok(imported) => {
                tracing::info!(digest = %imported.digest, source = asked.source, "template is on the storage");
                shelves.changed();
                Word::Imported(imported_there(imported))
            }
            Err(error) => {
                tracing::warn!(source = asked.source, error = error.line(), "template is not imported");
                failed(error.reason(), error.line())
            }
        }
    }

    /// Tells how far it is, and whether anybody wants to know.
    fn goes_on(&self, id: u64, progress: &Progress) -> ControlFlow<()> {
        // The next one says more.
        let _ = self.words.try_send(said(id, Word::Progress(told(progress))));
        if self.is_gone(id) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// What is found in each place, in order.
fn found_in(
    asked: wire::TemplatePlaces,
    look: impl FnMut(&wire::TemplatePlace) -> Result<wire::TemplateFound, ImportError>,
) -> Word {
    match asked.places.iter().map(look).collect() {
        Ok(found) => Word::Templates(wire::TemplatesFound { found }),
        Err(error) => failed(error.reason(), error.line()),
    }
}

fn said(errand: u64, word: Word) -> wire::FromAgent {
    let word = wire::ErrandWord { errand, word: Some(word) };
    wire::FromAgent { message: Some(from_agent::Message::Errand(word)) }
}

fn failed(reason: &str, text: String) -> Word {
    Word::Failed(wire::ErrandFailed { reason: reason.to_owned(), text })
}

fn order(node: NodeId, asked: &wire::ImportTemplate) -> Result<Order, String> {
    let expected = match asked.digest.as_str() {
        "" => None,
        digest => Some(digest.parse().map_err(|error| format!("{error}"))?),
    };
    let usual = Policy::default();
    let treat = |asked: TemplateTreatment, usual| match asked {
        TemplateTreatment::Unspecified => usual,
        TemplateTreatment::Refuse => Treat::Refuse,
        TemplateTreatment::LeaveOut => Treat::Strip,
    };
    Ok(Order {
        source: asked.source.clone(),
        storage: PathBuf::from(&asked.storage_path),
        owner: node.to_string(),
        claim: asked.claim.clone(),
        expected,
        layer: if asked.over_others { Layer::Over } else { Layer::Base },
        policy: Policy {
            set_id: treat(asked.set_id(), usual.set_id),
            capabilities: treat(asked.capabilities(), usual.capabilities),
            devices: treat(asked.devices(), usual.devices),
            fifos: treat(asked.fifos(), usual.fifos),
        },
        limits: Limits::default(),
        http: if asked.plain_http { Http::Allowed } else { Http::Loopback },
    })
}

fn told(progress: &Progress) -> wire::ErrandProgress {
    let phase = match progress.phase {
        Phase::Fetching => wire::ErrandPhase::Fetching,
        Phase::Reading => wire::ErrandPhase::Reading,
        Phase::Checking => wire::ErrandPhase::Checking,
        Phase::Keeping => wire::ErrandPhase::Keeping,
    };
    let Progress { bytes, bytes_total, entries, .. } = *progress;
    wire::ErrandProgress { phase: phase.into(), bytes, bytes_total, entries }
}

fn imported_there(imported: Imported) -> wire::TemplateImported {
    let Imported { digest, bytes, path, image, notes, was_there, .. } = imported;
    let image = image.unwrap_or_default();
    wire::TemplateImported {
        digest: digest.to_string(),
        path,
        bytes,
        command: image.command,
        environment: image.env,
        working_dir: image.working_dir,
        notes,
        was_there,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The storage, the errands, and the words of the next session.
    struct Room {
        folder: tempfile::TempDir,
        errands: Errands,
    }

    impl Room {
        fn new() -> Room {
            let folder = tempfile::tempdir().expect("temporary folder");
            fs::create_dir_all(folder.path().join("tree/bin")).expect("folder");
            fs::create_dir(folder.path().join("storage")).expect("folder");
            fs::write(folder.path().join("tree/bin/app"), "x").expect("write");
            Room { folder, errands: Errands::start(NodeId(1), Shelves::default()).expect("a thread") }
        }

        fn session(&self) -> (OfSession, words::Receiver<wire::FromAgent>) {
            let (words, heard) = words::channel(64);
            (self.errands.of_session(words), heard)
        }

        fn import(&self, id: u64, source: &str) -> wire::Errand {
            let import = wire::ImportTemplate {
                source: self.folder.path().join(source).to_str().expect("UTF-8").to_owned(),
                storage_path: self.folder.path().join("storage").to_str().expect("UTF-8").to_owned(),
                claim: "the first".to_owned(),
                ..wire::ImportTemplate::default()
            };
            wire::Errand { id, what: Some(errand::What::ImportTemplate(import)) }
        }
    }

    /// The last words of the errands, by their ids, until `count` were heard.
    fn last_words(heard: &mut words::Receiver<wire::FromAgent>, count: usize) -> Vec<(u64, Word)> {
        let mut last = Vec::new();
        while last.len() < count {
            let message = heard.blocking_recv().expect("the session is open").message;
            let Some(from_agent::Message::Errand(wire::ErrandWord { errand, word: Some(word) })) = message else {
                panic!("{message:?}")
            };
            if !matches!(word, Word::Progress(_)) {
                last.push((errand, word));
            }
        }
        last
    }

    #[test]
    fn errands_are_done_in_order_and_each_has_its_last_word() {
        let room = Room::new();
        let (session, mut heard) = room.session();
        session.take(room.import(1, "tree"));
        session.take(room.import(2, "nothing"));
        session.take(wire::Errand { id: 3, what: None });
        session.take(room.import(4, "tree"));
        let last = last_words(&mut heard, 4);
        assert_eq!(last.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3, 4]);
        let Word::Imported(first) = &last[0].1 else { panic!("{last:?}") };
        let Word::Imported(again) = &last[3].1 else { panic!("{last:?}") };
        assert!(!first.was_there && again.was_there && first.digest == again.digest);
        assert!(room.folder.path().join("storage").join(&first.path).join("bin/app").exists());
        let reasons = [&last[1].1, &last[2].1].map(|word| match word {
            Word::Failed(failed) => failed.reason.clone(),
            other => panic!("{other:?}"),
        });
        assert_eq!(reasons, ["storage-failed", "unknown-errand"]);
    }

    #[test]
    fn templates_are_looked_for_read_again_and_discarded() {
        let room = Room::new();
        let (session, mut heard) = room.session();
        session.take(room.import(1, "tree"));
        let Word::Imported(imported) = last_words(&mut heard, 1).remove(0).1 else { panic!("not imported") };
        let file = room.folder.path().join("storage").join(&imported.path).join("bin/app");
        let place = |storage: &str, claim: &str| wire::TemplatePlace {
            storage_path: room.folder.path().join(storage).to_str().expect("UTF-8").to_owned(),
            path: imported.path.clone(),
            digest: imported.digest.clone(),
            claim: claim.to_owned(),
        };
        let mut id = 1;
        let mut ask = |what: fn(wire::TemplatePlaces) -> errand::What, places: Vec<wire::TemplatePlace>| {
            id += 1;
            session.take(wire::Errand { id, what: Some(what(wire::TemplatePlaces { places })) });
            let Word::Templates(answer) = last_words(&mut heard, 1).remove(0).1 else { panic!("no answer") };
            answer.found
        };
        let presences = |found: &[wire::TemplateFound]| -> Vec<_> { found.iter().map(|it| it.presence()).collect() };
        let found =
            ask(errand::What::SurveyTemplates, vec![place("storage", ""), place("tree", ""), place("gone", "")]);
        assert_eq!(presences(&found), [Is::Present, Is::Absent, Is::Unreadable]);
        assert_eq!((found[0].claim.as_str(), found[0].bytes), ("the first", 1));
        assert_eq!(presences(&ask(errand::What::VerifyTemplates, vec![place("storage", "")])), [Is::Present]);
        fs::write(&file, "y").expect("write");
        let found = ask(errand::What::VerifyTemplates, vec![place("storage", "")]);
        assert_eq!(presences(&found), [Is::Damaged]);
        assert!(found[0].problem.contains("bin/app is changed"), "{found:?}");
        assert_eq!(presences(&ask(errand::What::DiscardTemplates, vec![place("storage", "other")])), [Is::Claimed]);
        assert!(file.exists());
        assert_eq!(
            presences(&ask(errand::What::DiscardTemplates, vec![place("storage", "the first")])),
            [Is::Discarded]
        );
        assert!(!file.exists());
        assert_eq!(presences(&ask(errand::What::SurveyTemplates, vec![place("storage", "")])), [Is::Absent]);
    }

    #[test]
    fn what_is_called_off_or_of_a_session_that_is_over_is_not_done() {
        let room = Room::new();
        let (over, _) = room.session();
        let (session, mut heard) = room.session();
        session.cancel(1);
        session.take(room.import(1, "tree"));
        let order = room.import(7, "tree");
        let stays = Session { words: over.session.words.clone(), gone: Arc::clone(&over.session.gone) };
        let errands = over.errands.clone();
        drop(over);
        errands.work.send((order, stays)).expect("the thread is there");
        session.take(wire::Errand { id: 2, what: None });
        assert_eq!(last_words(&mut heard, 1)[0].0, 2, "nothing is said of what was called off");
        assert!(!room.folder.path().join("storage/templates").exists());
    }
}
