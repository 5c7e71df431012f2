//! What the rows are walked at: a cluster with two nodes, empty members beside it, and what stands behind words in capitals.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tests::processes::{Cluster, Ended, Member, program, run, until_so};

use super::Format;

/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:1";
/// Documents of a stream that are heard.
const HEARD: usize = 5;

pub struct Ground {
    pub format: Format,
    /// Of all members, as --server takes them.
    pub server: String,
    /// The one that was made last, as `EMPTY`.
    empty: Option<Member>,
    cluster: Cluster,
    printed: String,
}

impl Ground {
    pub fn new(format: Format) -> Ground {
        let mut cluster = Cluster::start(&format!("formats-{}", format.name()), 3, "fast");
        cluster.furnish();
        for node in ["node-1", "node-2"] {
            cluster.join(node).start(&[], &[]);
        }
        for node in ["node-1", "node-2"] {
            cluster.until_up(node);
        }
        let server = cluster.members.iter().map(|member| member.api.as_str()).collect::<Vec<_>>().join(",");
        Ground { format, server, empty: None, cluster, printed: String::new() }
    }

    /// The description of the API.
    pub fn schemas(&self) -> Value {
        self.cluster.members[0].get("/openapi.json").good()
    }

    /// The words of a line, with what capitals stand for made.
    pub fn words(&mut self, line: &str) -> Vec<String> {
        line.split(' ').map(|word| self.word(word)).collect()
    }

    fn word(&mut self, word: &str) -> String {
        let file = |name: &str| self.cluster.path().join(name);
        let written = |path: PathBuf, text: &str| {
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        match word {
            "EMPTY" => {
                let member = self.cluster.spare();
                let api = member.api.clone();
                self.empty = Some(member);
                api
            }
            "ITS-API" => self.empty.as_ref().expect("made before").api.clone(),
            "ITS-PEER" => self.empty.as_ref().expect("made before").peer.clone(),
            "DAMAGED" => self.damaged(),
            "DARK" => self.dark(),
            // What is older may be in a snapshot of the member that answers.
            "LATELY" => self.lately(),
            "PRINTED" => written(file("printed"), &self.printed),
            "NEW-FILE" => file("identity.json").display().to_string(),
            "TREE" => {
                std::fs::create_dir_all(file("tree")).expect("a folder");
                written(file("tree/file"), "x");
                file("tree").display().to_string()
            }
            "STORAGE-OF-ITS-OWN" => {
                std::fs::create_dir_all(file("disks")).expect("a folder");
                file("disks").display().to_string()
            }
            "DIGEST-OF-NOTHING" => format!("sha256:{}", "0".repeat(64)),
            "FILE-OF-ONE-SPEC" => {
                let resources = json!({ "cpuMillis": 10, "memoryBytes": 1 << 20 });
                let spec = json!({ "name": "b", "template": "plain", "storage": "shared", "resources": resources });
                let items = json!({ "items": [{ "spec": spec, "desired": "DESIRED_STATE_STOPPED" }] });
                written(file("specs.json"), &items.to_string())
            }
            "FILE-OF-ONE-ANNOTATION" => {
                let items = json!({ "items": [{ "container": "b", "set": { "in": "a batch\u{9b}\u{2028}" } }] });
                written(file("annotations.json"), &items.to_string())
            }
            word => word.to_owned(),
        }
    }

    /// A member that has lost its guard file and knows it.
    fn damaged(&mut self) -> String {
        let leader = self.cluster.leader();
        let member = &mut self.cluster.members[(leader + 1) % 3];
        member.kill();
        std::fs::remove_file(member.data_dir.join("member/guard")).expect("a guard file");
        member.start(&[]);
        until_so("it is quarantined", || {
            member.status().is_some_and(|status| status["standing"] == "MEMBER_STANDING_QUARANTINED")
        });
        member.api.clone()
    }

    /// A node without power.
    fn dark(&mut self) -> String {
        self.cluster.join("dark").start(&[], &[]);
        self.cluster.until_up("dark");
        self.cluster.machines.last_mut().expect("just put there").cut_power();
        "dark".to_owned()
    }

    fn lately(&self) -> String {
        let now = self.cluster.members.iter().map(Member::revision).max().expect("members");
        (now - 30).to_string()
    }

    /// What follows `--` is a command, and options stand before it.
    fn options(format: Format, server: &str, words: impl Iterator<Item = String>) -> Vec<String> {
        let mut all: Vec<String> = vec!["-o".to_owned(), format.name().to_owned()];
        let words: Vec<String> = words.collect();
        if !words.iter().any(|word| word == "--server") {
            all.extend(["--server".to_owned(), server.to_owned()]);
        }
        let command = ["/bin/sleep", "300"].map(str::to_owned);
        let words = words.into_iter().flat_map(|word| if word == "COMMAND" { command.to_vec() } else { vec![word] });
        all.extend(words);
        all
    }

    pub fn run_as(&self, format: Format, server: &str, words: impl Iterator<Item = String>) -> Ended {
        let words = Ground::options(format, server, words);
        run("quoratectl", &words.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    }

    pub fn run(&mut self, words: &[String]) -> Ended {
        let ended = self.run_as(self.format, &self.server, words.iter().cloned());
        self.printed.clone_from(&ended.out);
        ended
    }

    pub fn run_in_vain(&mut self, line: &str) -> Ended {
        let words = self.in_vain(line, "100ms");
        run("quoratectl", &words.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    }

    /// The words of a line that asks where nobody answers, for so long. What would be made for it is not.
    pub fn in_vain(&mut self, line: &str, timeout: &str) -> Vec<String> {
        let word = |word: &str| match word {
            "EMPTY" | "ITS-API" | "ITS-PEER" | "DAMAGED" => NOBODY.to_owned(),
            "NEW-FILE" => self.cluster.path().join("never.json").display().to_string(),
            "PRINTED" => self.cluster.path().join("printed").display().to_string(),
            "DARK" => "dark".to_owned(),
            "LATELY" => "1".to_owned(),
            word => self.word(word),
        };
        let words: Vec<String> = line.split(' ').map(word).collect();
        let words = ["--timeout", timeout].map(str::to_owned).into_iter().chain(words);
        Ground::options(self.format, NOBODY, words)
    }

    /// The first lines of something that never ends.
    pub fn listen(&self, words: &[String]) -> Ended {
        let words = Ground::options(self.format, &self.server, words.iter().cloned());
        let mut command = Command::new(program("quoratectl"));
        let command = command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut out = String::new();
        let mut begun = 0;
        for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
            let line = line.expect("text") + "\n";
            begun += usize::from(self.format != Format::Yaml || line == "---\n");
            if begun > HEARD {
                break;
            }
            out.push_str(&line);
        }
        child.kill().expect("a child");
        let ended = child.wait_with_output().expect("it has ended");
        let err = String::from_utf8_lossy(&ended.stderr).into_owned();
        Ended { code: ended.status.code(), out, err }
    }
}
