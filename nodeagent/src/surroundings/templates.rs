//! Looks for every template on every storage again and again. In: which there are; that one was brought or taken away. Out: what
//! is on which shelf, to the report and to whoever starts containers.
//! A look is done on a thread of its own, which may hang with the file system: until it ends nothing is known of that storage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster::agent::{Watch, WatchedTemplate};
use cluster::{Inventory, Name, Revision, Shelf, Storage};
use proto::wire::{TemplatePlace, TemplatePresence};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Findings;
use super::storages::Pace;
use crate::copies;
use crate::shelves::Shelves;

/// Looks for the templates on one storage; `None` where it cannot be looked at. May take for ever.
pub type Look = Arc<dyn Fn(&Storage, &[WatchedTemplate]) -> Option<Seen> + Send + Sync>;

/// What a look came to, in the order of the watch, which is that of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub present: Vec<Name>,
    pub damaged: Vec<Name>,
}

/// What is on `storage`, by the manifests of the templates there; those are read, their trees are not.
pub fn look(storage: &Storage, templates: &[WatchedTemplate], shelves: &Shelves) -> Option<Seen> {
    let folder = folder_of(storage);
    let mut seen = Seen::default();
    for template in templates {
        let place = TemplatePlace {
            storage_path: folder.to_str()?.to_owned(),
            path: template.path.to_string(),
            digest: template.digest.to_string(),
            claim: String::new(),
        };
        match copies::look(&place).presence() {
            TemplatePresence::Present if shelves.is_damaged(folder, &template.digest) => {
                seen.damaged.push(template.name.clone());
            }
            TemplatePresence::Present => seen.present.push(template.name.clone()),
            TemplatePresence::Damaged => seen.damaged.push(template.name.clone()),
            TemplatePresence::Absent => {}
            _ => return None,
        }
    }
    Some(seen)
}

fn folder_of(storage: &Storage) -> &Path {
    Path::new(&**storage.kind.path())
}

struct Watched {
    storage: Arc<Storage>,
    /// Since when a look is under way.
    looking: Option<Instant>,
    due: Instant,
    shelf: Option<Shelf>,
}

/// Of which registration of the storage, up to which registration of templates, and what is there.
type Looked = (Name, Revision, Revision, Option<Seen>);

pub async fn attend(
    mut watch: watch::Receiver<Arc<Watch>>,
    findings: Findings,
    shelves: Shelves,
    look: Look,
    pace: Pace,
) {
    let (done, mut looked) = mpsc::unbounded_channel::<Looked>();
    let mut all: BTreeMap<Name, Watched> = BTreeMap::new();
    let mut wanted: Arc<Watch> = Arc::default();
    let mut tick = interval(pace.tick);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = watch.changed() => match changed {
                Ok(()) => {
                    wanted = watch.borrow_and_update().clone();
                    follow(&mut all, &wanted);
                }
                Err(_) => return,
            },
            () = shelves.stale() => all.values_mut().for_each(|watched| watched.due = Instant::now()),
            Some((name, registered, seen, found)) = looked.recv() => {
                let watched = all.get_mut(&name).filter(|watched| watched.storage.registered == registered);
                if let Some(watched) = watched {
                    watched.took(seen, found, pace);
                }
            }
            _ = tick.tick() => {}
        }
        for watched in all.values_mut() {
            watched.advance(&wanted, &look, &done, pace);
        }
        let found = || all.iter().filter_map(|(name, watched)| Some((name, watched, watched.shelf.as_ref()?)));
        let whole = |(name, watched, shelf): (&Name, &Watched, &Shelf)| {
            (name.clone(), (folder_of(&watched.storage).to_owned(), shelf.present.clone()))
        };
        shelves.put(found().map(whole).collect::<BTreeMap<Name, (PathBuf, Arc<[Name]>)>>());
        let told = found().map(|(name, _, shelf)| (name.clone(), shelf.clone())).collect();
        findings.note(|report| report.templates = Inventory { shelves: Arc::new(told) });
    }
}

/// Everything is looked for anew: what is watched has changed. A storage that was registered anew is another one.
fn follow(all: &mut BTreeMap<Name, Watched>, watch: &Watch) {
    let mut known = std::mem::take(all);
    for storage in &watch.storages {
        let same = known.remove(&storage.name).filter(|watched| watched.storage == *storage);
        let fresh = || Watched { storage: storage.clone(), looking: None, due: Instant::now(), shelf: None };
        let mut watched = same.unwrap_or_else(fresh);
        watched.due = Instant::now();
        all.insert(storage.name.clone(), watched);
    }
}

impl Watched {
    fn advance(&mut self, watch: &Arc<Watch>, look: &Look, done: &mpsc::UnboundedSender<Looked>, pace: Pace) {
        match self.looking {
            Some(since) if since.elapsed() > pace.hangs_after => self.shelf = None,
            None if self.due <= Instant::now() => {
                let (look, done, storage, watch) = (look.clone(), done.clone(), self.storage.clone(), watch.clone());
                let work = move || {
                    let found = look(&storage, &watch.templates);
                    let _ = done.send((storage.name.clone(), storage.registered, newest(&watch), found));
                };
                // One that is asked for meanwhile is made when this one has ended.
                self.due = Instant::now() + pace.every;
                match std::thread::Builder::new().name("shelf".to_owned()).spawn(work) {
                    Ok(_) => self.looking = Some(Instant::now()),
                    Err(error) => {
                        tracing::warn!(storage = %self.storage.name, %error, "no thread to look at a storage")
                    }
                }
            }
            _ => {}
        }
    }

    fn took(&mut self, seen: Revision, found: Option<Seen>, pace: Pace) {
        self.looking = None;
        self.due = self.due.min(Instant::now() + pace.every);
        self.shelf =
            found.map(|Seen { present, damaged }| Shelf { seen, present: present.into(), damaged: damaged.into() });
    }
}

/// Everything registered up to here was looked for.
fn newest(watch: &Watch) -> Revision {
    let templates = watch.templates.iter().map(|template| template.registered);
    templates.chain(watch.storages.iter().map(|storage| storage.registered)).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use cluster::{NodeReport, StorageKind};
    use decide::Input;

    use super::*;

    const FAST: Pace = Pace {
        every: Duration::from_secs(3_600),
        again: Duration::from_secs(3_600),
        hangs_after: Duration::from_millis(60),
        tick: Duration::from_millis(5),
    };

    fn name(text: &str) -> Name {
        Name::new(text).expect("a good name")
    }

    fn storage(called: &str, path: &Path, registered: u64) -> Arc<Storage> {
        let kind = StorageKind::Directory { path: path.to_str().expect("UTF-8").into() };
        Arc::new(Storage { name: name(called), kind, registered: Revision(registered) })
    }

    fn template(called: &str, registered: u64) -> WatchedTemplate {
        let path = format!("templates/{called}").into();
        WatchedTemplate { name: name(called), digest: "".into(), path, registered: Revision(registered) }
    }

    struct Room {
        folder: tempfile::TempDir,
        watch: watch::Sender<Arc<Watch>>,
        shelves: Shelves,
        heard: mpsc::UnboundedReceiver<Input>,
        /// What was heard last: one report may say two things that are waited for one after another.
        last: Arc<NodeReport>,
    }

    impl Room {
        fn new(look: impl Fn(&Storage, &[WatchedTemplate], &Shelves) -> Option<Seen> + Send + Sync + 'static) -> Room {
            let folder = tempfile::tempdir().expect("temporary folder");
            let (inputs, heard) = mpsc::unbounded_channel();
            let (watch, watched) = watch::channel(Arc::default());
            let (findings, shelves) = (Findings { report: Arc::default(), inputs }, Shelves::default());
            let seen = shelves.clone();
            let look: Look = Arc::new(move |storage, templates| look(storage, templates, &seen));
            tokio::spawn(attend(watched, findings, shelves.clone(), look, FAST));
            Room { folder, watch, shelves, heard, last: Arc::default() }
        }

        fn lay(&self, storage: &str, template: &str) {
            fs::create_dir_all(self.folder.path().join(storage).join("templates").join(template)).expect("a folder");
        }

        fn tell(&self, storages: &[(&str, u64)], templates: &[(&str, u64)]) {
            let storages = storages.iter().map(|(it, at)| storage(it, &self.folder.path().join(it), *at)).collect();
            let templates = templates.iter().map(|(it, at)| template(it, *at)).collect();
            self.watch.send_replace(Arc::new(Watch { storages, templates }));
        }

        /// Waits for a report that says this of `storage`: up to where it was looked, what is there, what is damaged.
        async fn until(&mut self, storage: &str, wanted: Option<(u64, &[&str])>) {
            let holds = |report: &NodeReport| {
                let shelf = report.templates.shelves.get(&name(storage));
                let said = shelf.map(|it| (it.seen.0, it.present.iter().map(Name::as_str).collect::<Vec<_>>()));
                said.as_ref().map(|(seen, present)| (*seen, &present[..])) == wanted
            };
            while !holds(&self.last) {
                match tokio::time::timeout(Duration::from_secs(20), self.heard.recv()).await {
                    Ok(Some(Input::Finds(report))) => self.last = report,
                    Ok(Some(_)) => {}
                    _ => panic!("{storage}: never {wanted:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn what_is_on_each_storage_is_told_up_to_where_it_was_looked_for() {
        let mut room = Room::new(look);
        room.lay("one", "a");
        room.lay("two", "b");
        room.tell(&[("gone", 1), ("one", 2), ("two", 3)], &[("a", 4), ("b", 5)]);
        room.until("two", Some((5, &["b"]))).await;
        room.until("one", Some((5, &["a"]))).await;
        // Registered later: looked for at once, and said to be missing.
        room.tell(&[("gone", 1), ("one", 2), ("two", 3)], &[("a", 4), ("b", 5), ("c", 9)]);
        room.until("one", Some((9, &["a"]))).await;
        // Nothing tells of a folder that was laid there but a word, or the next look in an hour.
        room.lay("one", "c");
        room.shelves.changed();
        room.until("one", Some((9, &["a", "c"]))).await;
        room.tell(&[("two", 3)], &[("b", 5)]);
        room.until("one", None).await;
    }

    #[tokio::test]
    async fn a_storage_that_hangs_says_nothing_until_it_answers() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let mut room = Room::new(move |storage, templates, shelves| {
            if storage.name.as_str() == "slow" && templates.len() > 1 {
                let _ = wait.lock().expect("one look at a time").recv();
            }
            look(storage, templates, shelves)
        });
        room.lay("slow", "a");
        room.tell(&[("slow", 1)], &[("a", 2)]);
        room.until("slow", Some((2, &["a"]))).await;
        room.tell(&[("slow", 1)], &[("a", 2), ("b", 3)]);
        room.until("slow", None).await;
        go.send(()).expect("it waits");
        room.until("slow", Some((3, &["a"]))).await;
    }

    #[tokio::test]
    async fn layers_are_found_where_they_are_whole() {
        let mut room = Room::new(look);
        let hex = "0".repeat(64);
        let path = cluster::Template::imported_path(&hex);
        for storage in ["one", "two"] {
            let place = room.folder.path().join(storage).join(&path);
            fs::create_dir_all(&place).expect("a folder");
            let kept = template::Kept { format: 1, digest: format!("sha256:{hex}"), entries: 1, bytes: 1 };
            let kept = serde_json::to_vec(&kept).expect("plain data");
            fs::write(place.with_file_name("manifest.json"), kept).expect("written");
        }
        let digest: Arc<str> = format!("sha256:{hex}").into();
        let watched = WatchedTemplate {
            name: name("os"),
            digest: digest.clone(),
            path: path.as_str().into(),
            registered: Revision(3),
        };
        let [one, two] = ["one", "two"].map(|it| room.folder.path().join(it));
        let storages = vec![storage("one", &one, 1), storage("two", &two, 2)];
        room.watch.send_replace(Arc::new(Watch { storages, templates: vec![watched.clone()] }));
        room.until("one", Some((3, &["os"]))).await;
        room.until("two", Some((3, &["os"]))).await;
        let template = cluster::Template {
            name: watched.name,
            version: "".into(),
            digest,
            kind: cluster::TemplateKind::Os,
            path: watched.path,
            registered: watched.registered,
            bytes: 0,
            defaults: Default::default(),
        };
        assert_eq!(room.shelves.elsewhere(&one, &template), Some(two.clone()));
        assert_eq!(room.shelves.elsewhere(&two, &template), Some(one.clone()));
        room.shelves.was_read(&two, &template.digest, false);
        room.until("two", Some((3, &[]))).await;
        assert_eq!(room.shelves.elsewhere(&one, &template), None, "it is damaged there");
        room.shelves.was_read(&two, &template.digest, true);
        room.until("two", Some((3, &["os"]))).await;
        let by_hand = cluster::Template { digest: "".into(), ..template };
        assert_eq!(room.shelves.elsewhere(&one, &by_hand), None, "nothing says that another is the same");
    }
}
