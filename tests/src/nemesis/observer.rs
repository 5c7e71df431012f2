//! Who watches from outside. In: the witnesses' datagrams, by a unix socket that every container sees in its private area and
//! no network fault can reach. Out: who ran when, at once; and a file of everything that came, in the order in which it came.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::checker::{Broken, Judge, Life, Record};
use super::witness::OBSERVER;

pub struct Observer {
    socket: PathBuf,
    shared: PathBuf,
    judge: Arc<Mutex<Judge>>,
}

impl Observer {
    /// Listens in `dir`, which must be on the file system of the folder `shared`: the socket is linked into private areas.
    pub fn start(dir: &Path, shared: &Path) -> io::Result<Observer> {
        // A burst of lines must find room: 10 datagrams, the kernel's default, is one breath of a busy machine.
        fs::write("/proc/sys/net/unix/max_dgram_qlen", "4096")?;
        let socket = dir.join(OBSERVER);
        let incoming = UnixDatagram::bind(&socket)?;
        let judge = Arc::new(Mutex::new(Judge::new(Record::Observer)));
        let (mut file, shelf) = (BufWriter::new(File::create(dir.join("observer.jsonl"))?), judge.clone());
        std::thread::spawn(move || {
            let mut room = [0; 4096];
            while let Ok(length) = incoming.recv(&mut room) {
                let line = String::from_utf8_lossy(&room[..length]);
                shelf.lock().expect("nothing panics while it holds the record").take(&line);
                if writeln!(file, "{line}").is_err() {
                    return;
                }
            }
        });
        Ok(Observer { socket, shared: shared.to_owned(), judge })
    }

    /// Puts the socket where container `id` (digits alone) sees it; false while it has no private area yet.
    pub fn plug(&self, id: &str) -> bool {
        let place = self.shared.join("containers").join(id).join(OBSERVER);
        match fs::hard_link(&self.socket, &place) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::AlreadyExists,
        }
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().expect("nothing panics while it holds the record")
    }

    pub fn latest(&self, container: &str) -> Option<Life> {
        self.judge().latest(container).cloned()
    }

    /// Lives that began within that time, by container.
    pub fn begun_within(&self, containers: &[String], from_ns: u64, until_ns: u64) -> Vec<(String, Life)> {
        let judge = self.judge();
        let lives =
            containers.iter().flat_map(|name| judge.lives(name).iter().map(|life| (name.clone(), life.clone())));
        lives.filter(|(_, life)| life.first_ns >= from_ns && life.first_ns <= until_ns).collect()
    }

    pub fn broken(&self) -> Vec<Broken> {
        self.judge().broken()
    }

    pub fn lines(&self) -> u64 {
        self.judge().lines
    }
}
