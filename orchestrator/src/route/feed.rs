//! A source that stands in for the one who sent: messages of a recording.
//!
//! It feeds the links that its instance feeds, or just those that are named. It declares nothing for
//! that instance: what is known of its types stays.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use orchestrator_proto::schema::side_by_side;
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, WireError};

use super::decl::TypeDecl;
use super::link::{Link, LinkTarget};
use super::router::Router;
use super::source::{OutputIndex, Source, SourceStats, Upstream};

/// Over which links a source sends.
#[derive(Clone, Debug)]
pub enum Aim {
    /// Those from its instance and those from anybody.
    Own,
    /// These, whoever they are from.
    Links(HashSet<LinkId>),
}

impl Router {
    /// A source that stands in for this instance, or for nobody, and its one output. The answer says
    /// to how many links that goes now.
    ///
    /// # Errors
    ///
    /// When one of them carries calls, or its receiver takes none of the form in which it sends.
    pub fn open_feed(
        &self,
        instance: Option<InstanceId>,
        aim: Aim,
        decl: &Arc<TypeDecl>,
        upstream: Weak<dyn Upstream>,
        stats: Arc<SourceStats>,
    ) -> Result<(Arc<Source>, OutputIndex, usize), WireError> {
        let source =
            Arc::new(Source::aimed(instance, aim, Some(upstream), stats, self.taps().clone()));
        let (output, links) = self.enter_feed(&source, decl);
        let mut fed = 0;
        for link in links.iter().filter(|link| source.feeds(link)) {
            self.check_feed(link, decl)?;
            fed += 1;
        }
        Ok((source, output, fed))
    }

    fn check_feed(&self, link: &Link, decl: &TypeDecl) -> Result<(), WireError> {
        if self.carries_calls(link) {
            let id = link.id;
            let message = format!("link {id} carries calls, and messages can't be played over it");
            return Err(WireError::new(ErrorCode::InvalidArgument, message));
        }
        let LinkTarget::Instance(to) = &link.to else { return Ok(()) };
        let Some(input) = self.input(*to, &decl.name) else { return Ok(()) };
        let Some((hash, sent)) = &decl.schema else { return Ok(()) };
        let nearest = input.forms().map(|(_, taken)| (sent.diff(taken), taken));
        let nearest = nearest.min_by_key(|(diff, _)| diff.differences.len() + diff.more);
        let Some((diff, taken)) = nearest.filter(|_| input.form_of(*hash).is_none()) else {
            return Ok(());
        };
        let mut error = WireError::new(
            ErrorCode::SchemaMismatch,
            format!(
                "the recording has {} in another form than the receiver of link {} takes; what was \
                 recorded in it can't be played to it",
                decl.name, link.id
            ),
        );
        error.causes.push(diff.lines("the recording", "the receiver"));
        error.causes.push(side_by_side("recorded", sent, &format!("taken by {to}"), taken));
        Err(error)
    }
}
