//! A part of a value that most of its kind do not have.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What such a part is like where there is none.
pub trait Usual: Default + PartialEq + 'static {
    /// As [`Default`] makes it.
    const USUAL: &'static Self;
}

/// As a `T`, but with the room of a pointer for as long as it is as usual: there are many, and few
/// are anything else. Looked at and written down, it is a `T`; whoever changes it gives it its room.
#[derive(Clone, Default)]
pub struct Rare<T>(Option<Box<T>>);

impl<T: Usual> Deref for Rare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::USUAL)
    }
}

impl<T: Usual> DerefMut for Rare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: Usual> From<T> for Rare<T> {
    fn from(value: T) -> Self {
        Self((value != *T::USUAL).then(|| Box::new(value)))
    }
}

impl<T: Usual + Serialize> Serialize for Rare<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de, T: Usual + Deserialize<'de>> Deserialize<'de> for Rare<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::from)
    }
}

impl<T: Usual> PartialEq for Rare<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Usual + Eq> Eq for Rare<T> {}

impl<T: Usual + fmt::Debug> fmt::Debug for Rare<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Execution, Limits};

    #[derive(Clone, PartialEq, Eq, Debug, Default)]
    struct Part(Option<String>);

    impl Usual for Part {
        const USUAL: &'static Self = &Self(None);
    }

    #[test]
    fn it_is_what_it_was_made_of() {
        let part = Part(Some("text".to_owned()));
        let mut rare = Rare::from(part.clone());
        assert_eq!((&*rare, &rare.0), (&part, &Some(Box::new(part.clone()))));
        rare.0 = None;
        assert_eq!(*rare, Part::default());
        rare.0.clone_from(&Some(Box::default()));
        assert_eq!(rare, Rare::default(), "whether it has room for it is no difference");
        *rare = part.clone();
        assert_eq!(rare.clone(), Rare::from(part));
    }

    #[test]
    fn it_is_written_down_as_what_it_is() {
        for part in [Limits::default(), Limits { pids_max: Some(7), ..Limits::default() }] {
            let rare = Rare::from(part.clone());
            let bytes = postcard::to_stdvec(&rare).unwrap();
            assert_eq!(bytes, postcard::to_stdvec(&part).unwrap());
            assert_eq!(postcard::from_bytes::<Rare<Limits>>(&bytes).unwrap(), rare);
            assert_eq!(serde_json::to_value(&rare).unwrap(), serde_json::to_value(&part).unwrap());
        }
    }

    #[test]
    fn usual_is_what_is_there_by_default() {
        assert_eq!(*Limits::USUAL, Limits::default());
        assert_eq!(*Execution::USUAL, Execution::default());
    }

    #[test]
    fn what_is_as_usual_has_no_room() {
        assert_eq!(Rare::from(Part::default()).0, None);
        assert_eq!(size_of::<Rare<Part>>(), size_of::<usize>());
        assert_eq!(*Part::USUAL, Part::default());
    }
}
