//! Faults of the network between the machines. In: which machines, what. Out: rules of nftables in the lab's switch, which no
//! machine can see, or a relay in the place of a cable. Everything is undone by `heal`, and goes with the switch's namespace.
//! The thread that calls this is in that namespace. Absent: the containers' way to the observer, which is no network.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::ioctl::{Setter, ioctl, opcode};

use super::deeds::{Cell, Chance, Host};

const TABLE: &str = "nemesis";
/// Acknowledgements and the opening of connections pass; the smallest thing anybody says does not: 40 bytes of headers, up
/// to 20 of options.
const SAYS_NOTHING: u32 = 60;

/// What `ip` and `nft` had to say, as an error.
fn feed(program: &str, words: &[&str], lines: &str) -> io::Result<String> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().expect("it is piped").write_all(lines.as_bytes())?;
    let out = child.wait_with_output()?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(io::Error::other(format!("{program}: {}: {lines}", String::from_utf8_lossy(&out.stderr).trim()))),
    }
}

fn addresses(cell: Cell) -> String {
    let all: Vec<String> = cell.hosts().into_iter().map(|host| format!("10.77.0.{host}")).collect();
    format!("{{ {} }}", all.join(", "))
}

/// Rules for what the bridge forwards, in place of those there were.
fn forward(rules: &[String]) -> io::Result<()> {
    let rules: String = rules.iter().map(|rule| format!("    {rule}\n")).collect();
    feed(
        "nft",
        &["-f", "-"],
        &format!(
            "table bridge {TABLE}\ndelete table bridge {TABLE}\ntable bridge {TABLE} {{\n  chain forward {{\n    \
         type filter hook forward priority 0\n{rules}  }}\n}}\n"
        ),
    )
    .map(drop)
}

fn dropped(from: Cell, to: Cell, which: &str) -> String {
    format!("ip saddr {} ip daddr {} {which} counter drop", addresses(from), addresses(to))
}

pub fn cut(from: Cell, to: Cell) -> io::Result<()> {
    forward(&[dropped(from, to, "")])
}

pub fn split(one: Cell, other: Cell) -> io::Result<()> {
    forward(&[dropped(one, other, ""), dropped(other, one, "")])
}

pub fn half_open(one: Cell, other: Cell) -> io::Result<()> {
    let spoken = format!("ip protocol tcp ip length > {SAYS_NOTHING}");
    forward(&[dropped(one, other, &spoken), dropped(other, one, &spoken)])
}

pub fn lose(percent: u32) -> io::Result<()> {
    forward(&[dropped(Cell::ALL, Cell::ALL, &format!("numgen random mod 100 < {percent}"))])
}

pub fn duplicate(percent: u32) -> io::Result<()> {
    let chain = |host: Host| {
        format!(
            "  chain at{host} {{\n    type filter hook ingress device private{host} priority 0\n    \
             ip protocol tcp numgen random mod 100 < {percent} counter dup to \"private\"\n  }}\n"
        )
    };
    let chains: String = Cell::ALL.hosts().into_iter().map(chain).collect();
    feed("nft", &["-f", "-"], &format!("table netdev {TABLE} {{\n{chains}}}\n")).map(drop)
}

/// Packets that rules of ours met, lost or doubled, and no rules from now on.
pub fn heal() -> io::Result<u64> {
    let tables = feed("nft", &["list", "ruleset"], "")?;
    let mut words = tables.split_whitespace();
    let mut met = 0;
    while let Some(word) = words.next() {
        if word == "packets" {
            met += words.next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    for family in ["bridge", "netdev"] {
        feed("nft", &["-f", "-"], &format!("table {family} {TABLE}\ndelete table {family} {TABLE}\n"))?;
    }
    Ok(met)
}

// ---- Delay: a relay in the place of the cable ----

/// From a question to the machine to its answer, be it a refusal: nobody listens at that port.
pub fn way_there_and_back(host: Host) -> Duration {
    let began = Instant::now();
    let nobody = std::net::SocketAddr::from(([10, 77, 0, host], 9));
    let _ = std::net::TcpStream::connect_timeout(&nobody, Duration::from_secs(10));
    began.elapsed()
}

/// Two taps with a thread between each way: what goes in at one comes out at the other, later, not always in its order.
pub struct Relay {
    host: Host,
    ends: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// `struct ifreq`, as far as TUNSETIFF looks at it.
#[repr(C)]
struct Interface {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

const TAP_WITHOUT_HEADER: i16 = 0x0002 | 0x1000;

fn tap(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut interface = Interface { name: [0; 16], flags: TAP_WITHOUT_HEADER, rest: [0; 22] };
    interface.name[..name.len()].copy_from_slice(name.as_bytes());
    // Safety: TUNSETIFF takes a `struct ifreq`, which this is as far as it is read and written.
    unsafe { ioctl(&file, Setter::<{ opcode::write::<i32>(b'T', 202) }, Interface>::new(interface))? };
    rustix::io::ioctl_fionbio(&file, true)?;
    Ok(file)
}

impl Relay {
    /// Everything from and to the machine takes `ms` to twice as long from now on.
    pub fn start(host: Host, ms: u64, seed: u64) -> io::Result<Relay> {
        let (near, far) = (tap(&format!("near{host}"))?, tap(&format!("far{host}"))?);
        feed(
            "ip",
            &["-batch", "-"],
            &format!(
                "link add name slow{host} type bridge\nlink set slow{host} up\nlink set near{host} master slow{host} up\n\
             link set far{host} master private up\nlink set private{host} master slow{host}\n"
            ),
        )?;
        let ends = Arc::new(AtomicBool::new(false));
        let way = |from: &File, to: &File, seed| -> io::Result<_> {
            let (from, to, ends) = (from.try_clone()?, to.try_clone()?, ends.clone());
            let (send, receive) = mpsc::channel();
            let reader = std::thread::spawn({
                let ends = ends.clone();
                move || read(from, &send, &ends, ms, seed)
            });
            Ok([reader, std::thread::spawn(move || write(to, &receive))])
        };
        let threads = way(&near, &far, seed)?.into_iter().chain(way(&far, &near, seed + 1)?).collect();
        Ok(Relay { host, ends, threads })
    }

    /// Puts the cable back; what is still under way is lost.
    pub fn stop(self) -> io::Result<()> {
        let host = self.host;
        feed("ip", &["-batch", "-"], &format!("link set private{host} master private\nlink del slow{host}\n"))?;
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a relay does not panic");
        }
        Ok(())
    }
}

fn read(mut from: File, send: &mpsc::Sender<(Instant, Vec<u8>)>, ends: &AtomicBool, ms: u64, seed: u64) {
    let mut chance = Chance::new(seed);
    let mut room = vec![0; 65_600];
    while !ends.load(Ordering::Relaxed) {
        match from.read(&mut room) {
            Ok(length) => {
                let late = Duration::from_micros((ms + chance.below(ms.max(1))) * 1_000);
                if send.send((Instant::now() + late, room[..length].to_vec())).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_readable(&from),
            Err(_) => return,
        }
    }
}

/// Until something came, or a moment passed.
fn wait_readable(file: &File) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let _ = poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&moment));
}

fn write(mut to: File, receive: &mpsc::Receiver<(Instant, Vec<u8>)>) {
    let mut waiting: Vec<(Instant, Vec<u8>)> = Vec::new();
    loop {
        let next = waiting.iter().map(|(at, _)| *at).min();
        let pause = next.map_or(Duration::from_secs(1), |at| at.saturating_duration_since(Instant::now()));
        match receive.recv_timeout(pause) {
            Ok(frame) => waiting.push(frame),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        for (at, frame) in std::mem::take(&mut waiting) {
            match at <= now {
                // A tap without room loses the frame, as a cable would.
                true => drop(to.write(&frame)),
                false => waiting.push((at, frame)),
            }
        }
    }
}
