//! Message types as clients speak of them: what instances declare, and what the store keeps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use orchestrator_proto::control::{
    Declarer, Declarers, LinkSpec, TypeForm, TypeForms, TypeInfo, TypeList,
};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, SchemaHash, TypeSchema, WireError};

use super::links::invalid;
use super::near::near;
use super::{Registry, shorten};
use crate::route::{Link, LinkTarget};
use crate::store::SeenSchema;

/// Bytes of a list, about: it has to fit a frame.
const MAX_LIST: usize = 12 << 20;

/// By name, and without a schema first.
type Forms = BTreeMap<(Arc<str>, Option<[u8; 32]>), Form>;

/// What is known of a form.
#[derive(Default)]
struct Form {
    /// Sorted.
    outputs: Vec<InstanceId>,
    /// Sorted.
    inputs: Vec<InstanceId>,
    /// If an instance declares it.
    schema: Option<Arc<TypeSchema>>,
    seen: Option<SeenSchema>,
}

impl Registry {
    /// All forms of all message types.
    #[must_use]
    pub fn list_types(&self) -> TypeList {
        let (forms, links) = (self.forms(), self.links_by_type());
        let mut infos: Vec<_> =
            forms.iter().map(|(key, form)| self.type_info(key, form, &links)).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| newest_first(a, b)));
        let mut bytes = 0;
        let fit = infos.iter().take_while(|info| {
            bytes += size(info);
            bytes <= MAX_LIST
        });
        let fit = fit.count();
        let more = (infos.len() - fit) as u64;
        infos.truncate(fit);
        TypeList { types: infos, more }
    }

    /// The forms of one name with their schemas; only those whose hash begins with `hash`.
    ///
    /// # Errors
    ///
    /// When there is none, which names those that may have been meant; when `hash` is no beginning
    /// of one; and when the database can't be read.
    pub async fn show_type(&self, name: &str, hash: Option<&str>) -> Result<TypeForms, WireError> {
        let hash = hash.map(str::to_ascii_lowercase);
        if let Some(digits) = &hash
            && (digits.is_empty()
                || digits.len() > 64
                || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        {
            let digits = shorten(digits);
            return Err(invalid(format!("{digits} is not 1 to 64 digits of a hash")));
        }
        let (forms, links) = (self.forms(), self.links_by_type());
        let is_wanted = |of: &Option<[u8; 32]>| match &hash {
            None => true,
            Some(digits) => {
                of.is_some_and(|it| SchemaHash(it).to_string().starts_with(digits.as_str()))
            }
        };
        let of_name = forms.iter().filter(|((of, _), _)| **of == *name);
        let mut wanted: Vec<_> = of_name
            .filter(|((_, hash), _)| is_wanted(hash))
            .map(|(key, form)| (self.type_info(key, form, &links), form.schema.clone()))
            .collect();
        if wanted.is_empty() {
            return Err(none_such(name, hash.as_deref(), &forms));
        }
        wanted.sort_by(|(a, _), (b, _)| newest_first(a, b));
        let more = wanted.len().saturating_sub(TypeForms::LISTED) as u64;
        wanted.truncate(TypeForms::LISTED);
        let mut told = Vec::with_capacity(wanted.len());
        for (info, schema) in wanted {
            let schema = match (schema, info.hash) {
                (Some(schema), _) => Some(schema.encode()),
                (None, Some(hash)) => self.kept_schema(&info.name, hash).await?,
                (None, None) => None,
            };
            told.push(TypeForm { info, schema });
        }
        Ok(TypeForms { forms: told, more })
    }

    /// What the store has; none if it was forgotten just now.
    async fn kept_schema(
        &self,
        name: &str,
        hash: SchemaHash,
    ) -> Result<Option<Vec<u8>>, WireError> {
        let (store, name) = (self.store.clone(), name.to_owned());
        let reading = tokio::task::spawn_blocking(move || store.read_schema(&name, hash));
        let failed = |error: &(dyn std::error::Error + 'static)| {
            WireError::caused_by(ErrorCode::Io, "a schema can't be read from the database", error)
        };
        let schema = reading.await.map_err(|error| failed(&error))?;
        let schema = schema.map_err(|error| failed(&error))?;
        let Some(schema) = schema else { return Ok(None) };
        if SchemaHash::of(&schema) != hash {
            let message = "a schema in the database is damaged: its hash is another one";
            return Err(WireError::new(ErrorCode::Io, message));
        }
        Ok(Some(schema.to_vec()))
    }

    /// What is kept, and what is declared.
    fn forms(&self) -> Forms {
        let mut forms = Forms::new();
        for (name, seen) in self.store.schemas() {
            for form in seen {
                let key = (name.clone(), Some(form.hash.0));
                forms.entry(key).or_default().seen = Some(form);
            }
        }
        for (instance, direction, decl) in self.router.declarations() {
            let with_schema = decl.forms().map(|(hash, schema)| Some((hash.0, schema.clone())));
            let without = decl.schema.is_none().then_some(None);
            for of in with_schema.chain(without) {
                let key = (decl.name.clone(), of.as_ref().map(|(hash, _)| *hash));
                let form = forms.entry(key).or_default();
                form.schema = of.map(|(_, schema)| schema);
                match direction {
                    Direction::Output => form.outputs.push(instance),
                    Direction::Input => form.inputs.push(instance),
                }
            }
        }
        for form in forms.values_mut() {
            form.outputs.sort_unstable();
            form.inputs.sort_unstable();
        }
        forms
    }

    fn links_by_type(&self) -> HashMap<Arc<str>, Vec<Arc<Link>>> {
        let mut links: HashMap<_, Vec<_>> = HashMap::new();
        for link in self.router.links() {
            links.entry(link.type_name.clone()).or_default().push(link);
        }
        links
    }

    fn type_info(
        &self,
        (name, hash): &(Arc<str>, Option<[u8; 32]>),
        form: &Form,
        links: &HashMap<Arc<str>, Vec<Arc<Link>>>,
    ) -> TypeInfo {
        let links = links.get(name).map(Vec::as_slice).unwrap_or_default();
        let declarers = |ids: &[InstanceId]| Declarers {
            count: ids.len() as u64,
            listed: ids
                .iter()
                .take(Declarers::LISTED)
                .map(|id| Declarer { id: *id, name: self.name_of(*id) })
                .collect(),
        };
        TypeInfo {
            name: name.to_string(),
            hash: hash.map(SchemaHash),
            outputs: declarers(&form.outputs),
            inputs: declarers(&form.inputs),
            links: links.iter().filter(|link| form.is_of(link)).map(|link| link.id).collect(),
            first_seen_ms: form.seen.map(|seen| seen.first_ms),
            last_seen_ms: form.seen.map(|seen| seen.last_ms),
        }
    }
}

impl Form {
    /// Whether the link begins or ends at an instance that declares it.
    fn is_of(&self, link: &Link) -> bool {
        let sends = match link.from {
            Some(from) => self.outputs.binary_search(&from).is_ok(),
            None => !self.outputs.is_empty(),
        };
        let takes = match &link.to {
            LinkTarget::Instance(to) => self.inputs.binary_search(to).is_ok(),
            LinkTarget::Udp(_) => false,
        };
        sends || takes
    }
}

/// Those that instances declare first.
fn newest_first(a: &TypeInfo, b: &TypeInfo) -> std::cmp::Ordering {
    let key = |it: &TypeInfo| (it.outputs.count + it.inputs.count > 0, it.last_seen_ms);
    key(b).cmp(&key(a)).then_with(|| a.hash.map(|it| it.0).cmp(&b.hash.map(|it| it.0)))
}

/// Bytes on the wire, not fewer than there are.
fn size(info: &TypeInfo) -> usize {
    let declarer = |it: &Declarer| 24 + it.name.as_ref().map_or(0, String::len);
    let declarers = |all: &Declarers| 16 + all.listed.iter().map(declarer).sum::<usize>();
    let links =
        10 + info.links.iter().map(|LinkId(id)| if *id < 1 << 14 { 2 } else { 10 }).sum::<usize>();
    64 + info.name.len() + declarers(&info.outputs) + declarers(&info.inputs) + links
}

fn none_such(name: &str, hash: Option<&str>, forms: &Forms) -> WireError {
    if name.len() > LinkSpec::MAX_TYPE_NAME {
        return invalid(format!("a type name has at most {} bytes", LinkSpec::MAX_TYPE_NAME));
    }
    let is_known = forms.keys().any(|(known, _)| **known == *name);
    let message = match hash {
        Some(hash) if is_known => format!(
            "{name} was never declared with a schema whose hash begins with {hash}; \
             `type show {name} --all` shows those there are"
        ),
        _ => {
            let near = near(name, forms.keys().map(|(name, _)| &**name));
            let hint = match near.as_slice() {
                [] => "`type list` shows those there are".to_owned(),
                some => format!("did you mean {}?", some.join(" or ")),
            };
            format!("there is no message type {}; {hint}", shorten(name))
        }
    };
    WireError::new(ErrorCode::NotFound, message)
}
