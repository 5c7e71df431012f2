//! Members come and go as entries of the directory; who of them votes is Raft's to say.

use std::sync::Arc;

use super::{Done, Kind, Outcome, Rejected, Step, not_found, valid};
use crate::event::Event;
use crate::model::ids::{MemberId, Name, SecretHash};
use crate::model::member::Member;

impl Step<'_> {
    pub(super) fn add_member(
        &mut self,
        name: &Name,
        peer_address: &Arc<str>,
        api_address: &Arc<str>,
        secret: SecretHash,
    ) -> Outcome {
        valid::address("peer_address", peer_address)?;
        valid::address("api_address", api_address)?;
        if let Some(holder) = self.state.members().find(|member| member.name == *name) {
            let (name, holder) = (name.as_str().into(), holder.id.to_string().into());
            return Err(Rejected::NameTaken { kind: Kind::Member, name, holder });
        }
        if let Some(holder) = self.state.members().find(|member| member.peer_address == *peer_address) {
            return Err(super::invalid("peer_address", format!("{peer_address} is that of {}", holder.name)));
        }
        let id = self.state.new_member_id();
        self.state.put_member(Member {
            id,
            name: name.clone(),
            peer_address: Arc::clone(peer_address),
            api_address: Arc::clone(api_address),
            secret,
            added: self.index,
        });
        self.events.push(Event::MemberAdded { member: id, name: name.clone() });
        Ok(Done::Member(id))
    }

    pub(super) fn remove_member(&mut self, id: MemberId) -> Outcome {
        let member = self.state.member(id).ok_or_else(|| not_found(Kind::Member, id))?;
        let membership = self.state.membership();
        let learns = membership.learners.contains(&id) || membership.learners_next.contains(&id);
        if membership.votes(id) || learns {
            let by = "the membership; take it out of that first".into();
            return Err(Rejected::InUse { kind: Kind::Member, what: member.name.as_str().into(), by });
        }
        let name = member.name.clone();
        self.state.drop_member(id);
        self.events.push(Event::MemberRemoved { member: id, name });
        Ok(Done::Member(id))
    }
}
