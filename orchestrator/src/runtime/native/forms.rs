//! Forms of a type that an input takes besides that of its declaration.

use std::collections::HashSet;

use orchestrator_proto::WireError;
use orchestrator_proto::runtime::{Direction, MAX_FORMS};

use super::reader::{Reader, checked, malformed};
use crate::route::{Form, TypeDecl};

impl Reader {
    /// The input that is to be declared next on this channel takes this form too.
    pub(super) fn takes(
        &mut self,
        channel: u16,
        canonical: &[u8],
        hash: Option<[u8; 32]>,
    ) -> Result<(), WireError> {
        let form = checked(&format!("channel {channel}"), canonical, hash)?;
        let (of, forms) = self.forms.get_or_insert_with(|| (channel, Vec::new()));
        if *of != channel {
            return Err(malformed(format!("the forms of channel {of} are not yet declared")));
        }
        if forms.len() + 1 >= MAX_FORMS {
            return Err(malformed(format!("channel {channel} takes more than {MAX_FORMS} forms")));
        }
        forms.push(form);
        Ok(())
    }

    /// What was said of the channel that is declared now.
    pub(super) fn forms_of(
        &mut self,
        channel: u16,
        direction: Direction,
    ) -> Result<Vec<Form>, WireError> {
        match self.forms.take() {
            None => Ok(Vec::new()),
            Some((of, forms)) if of == channel && direction == Direction::Input => Ok(forms),
            Some((of, _)) => Err(malformed(format!(
                "the declaration of channel {channel} is not that of an input {of}, whose forms \
                 were named"
            ))),
        }
    }
}

/// The declaration, if no form is in it twice.
pub(super) fn all_different(decl: TypeDecl) -> Result<TypeDecl, WireError> {
    let hashes: HashSet<_> = decl.forms().map(|(hash, _)| *hash).collect();
    match hashes.len() == decl.forms().count() {
        true => Ok(decl),
        false => Err(malformed(format!("the input {} takes one form twice", decl.name))),
    }
}
