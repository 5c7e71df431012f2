//! Pages of lists. A token says where the list goes on and for which request; it means nothing to anybody else.

use proto::{Problem, v1};
use sha2::{Digest, Sha256};

const SIZE: u32 = 100;
const SIZE_MAX: u32 = 1_000;

/// Which part of a list is wanted.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub size: usize,
    /// The key of the last item of the page before.
    pub after: Option<String>,
    bound_to: String,
}

impl Page {
    /// `request` is everything that decides which items are in the list: a token of another list is refused.
    pub fn of(page: Option<&v1::PageRequest>, request: &str) -> Result<Page, Problem> {
        let (size, token) = page.map_or((0, ""), |page| (page.size, page.token.as_str()));
        if size > SIZE_MAX {
            return Err(Problem::invalid("page.size", format!("{size} is above {SIZE_MAX}")));
        }
        let size = if size == 0 { SIZE } else { size };
        let digest = Sha256::digest(request);
        let bound_to: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        let after = match token.split_once('.') {
            _ if token.is_empty() => None,
            Some((bound, key)) if bound == bound_to => Some(key.to_owned()),
            _ => {
                return Err(Problem::invalid("page.token", "is not a token of this list").hint("begin without a token"));
            }
        };
        Ok(Page { size: size as usize, after, bound_to })
    }

    /// Cuts `items` (one more than wanted says that there is more) and gives the token for what follows.
    pub fn cut<T>(&self, items: &mut Vec<T>, key: impl Fn(&T) -> String) -> v1::PageReply {
        let more = items.len() > self.size;
        items.truncate(self.size);
        let last = items.last().filter(|_| more);
        v1::PageReply { next_token: last.map_or_else(String::new, |last| format!("{}.{}", self.bound_to, key(last))) }
    }

    /// A number that was a key.
    pub fn after_number(&self) -> Result<u64, Problem> {
        let after = self.after.as_deref().unwrap_or("0");
        after.parse().map_err(|_| Problem::invalid("page.token", "is not a token of this list"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(size: u32, token: &str, request: &str) -> Result<Page, Problem> {
        Page::of(Some(&v1::PageRequest { size, token: token.to_owned() }), request)
    }

    #[test]
    fn pages_follow_each_other_without_gap_and_belong_to_their_list() {
        let all: Vec<u64> = (1..=7).collect();
        let (mut token, mut seen) = (String::new(), Vec::new());
        loop {
            let part = page(3, &token, "nodes").expect("a page");
            let after = part.after_number().expect("a number");
            let mut items: Vec<u64> = all.iter().copied().filter(|item| *item > after).take(part.size + 1).collect();
            token = part.cut(&mut items, u64::to_string).next_token;
            seen.extend(items);
            if token.is_empty() {
                break;
            }
            assert_eq!(page(3, &token, "containers").map_err(|problem| problem.field), Err(Some("page.token".into())));
        }
        assert_eq!(seen, all);
        assert!(page(1_001, "", "nodes").is_err());
    }
}
