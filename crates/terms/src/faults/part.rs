//! A deserializer around another one, that knows where it is, leaves out what it is told to, and notes what goes wrong.

use super::Step;
use super::made_up::MadeUp;
use super::stop::Stop;
use super::walk::{Problem, Walk, Wanted};
use serde::de::value::StringDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, Expected, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use std::fmt;

pub(super) struct Part<'w, D> {
    pub inner: D,
    pub walk: &'w Walk,
    pub path: Vec<Step>,
}

impl<D> Part<'_, D> {
    fn go<'de, V: Visitor<'de>>(
        self,
        wanted: Wanted,
        visitor: V,
        call: impl FnOnce(D, Watch<'_, V>) -> Result<V::Value, D::Error>,
    ) -> Result<V::Value, D::Error>
    where
        D: Deserializer<'de>,
    {
        let Part { inner, walk, path } = self;
        let watch = Watch { visitor, walk, path: path.clone(), wanted: wanted.clone() };
        call(inner, watch).inspect_err(|e| match wanted {
            Wanted::Anything => walk.note_said(&path, e),
            _ => walk.note(&path, &wanted, Problem::Kind),
        })
    }
}

fn called<'de, V: Visitor<'de>>(visitor: &V) -> String {
    let expected: &dyn Expected = visitor;
    expected.to_string()
}

macro_rules! pass {
    ($($method:ident: $wanted:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.go($wanted, visitor, |inner, watch| inner.$method(watch))
        })*
    };
}
macro_rules! whole {
    ($($method:ident: $type:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let wanted = Wanted::Whole { least: <$type>::MIN as i128, most: <$type>::MAX as i128 };
            self.go(wanted, visitor, |inner, watch| inner.$method(watch))
        })*
    };
}
macro_rules! text {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.go(Wanted::Text(called(&visitor)), visitor, |inner, watch| inner.$method(watch))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Part<'_, D> {
    type Error = D::Error;

    pass! {
        deserialize_any: Wanted::Anything;
        deserialize_bool: Wanted::Truth;
        deserialize_i128: Wanted::Number;
        deserialize_u128: Wanted::Number;
        deserialize_f32: Wanted::Number;
        deserialize_f64: Wanted::Number;
        deserialize_option: Wanted::Anything;
        deserialize_unit: Wanted::Anything;
        deserialize_seq: Wanted::List;
        deserialize_map: Wanted::Map;
        deserialize_identifier: Wanted::Anything;
        deserialize_ignored_any: Wanted::Anything;
    }
    whole! {
        deserialize_i8: i8;
        deserialize_i16: i16;
        deserialize_i32: i32;
        deserialize_i64: i64;
        deserialize_u8: u8;
        deserialize_u16: u16;
        deserialize_u32: u32;
        deserialize_u64: u64;
    }
    text! { deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.go(Wanted::Anything, visitor, |inner, watch| inner.deserialize_unit_struct(name, watch))
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.go(Wanted::Anything, visitor, |inner, watch| inner.deserialize_newtype_struct(name, watch))
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.go(Wanted::List, visitor, |inner, watch| inner.deserialize_tuple(len, watch))
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.go(Wanted::List, visitor, |inner, watch| inner.deserialize_tuple_struct(name, len, watch))
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let wanted = Wanted::Mapping { name, fields };
        self.go(wanted, visitor, |inner, watch| inner.deserialize_struct(name, fields, watch))
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.go(Wanted::Choice(variants), visitor, |inner, watch| inner.deserialize_enum(name, variants, watch))
    }
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

struct Seed<'w, S> {
    seed: S,
    walk: &'w Walk,
    path: Vec<Step>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        let Self { seed, walk, path } = self;
        // A type may refuse what its own reading was given: after everything below.
        seed.deserialize(Part { inner, walk, path: path.clone() }).inspect_err(|e| walk.note_said(&path, e))
    }
}

/// Around the visitor of a type.
struct Watch<'w, V> {
    visitor: V,
    walk: &'w Walk,
    path: Vec<Step>,
    wanted: Wanted,
}

macro_rules! visit {
    ($($method:ident: $type:ty;)*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            let Self { visitor, walk, path, wanted } = self;
            visitor.$method::<Stop>(value).map_err(|stop| {
                walk.note_stop(&path, &wanted, &stop);
                E::custom(stop)
            })
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Watch<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }
    visit! {
        visit_bool: bool;
        visit_i8: i8;
        visit_i16: i16;
        visit_i32: i32;
        visit_i64: i64;
        visit_i128: i128;
        visit_u8: u8;
        visit_u16: u16;
        visit_u32: u32;
        visit_u64: u64;
        visit_u128: u128;
        visit_f32: f32;
        visit_f64: f64;
        visit_char: char;
        visit_str: &str;
        visit_borrowed_str: &'de str;
        visit_string: String;
        visit_bytes: &[u8];
        visit_borrowed_bytes: &'de [u8];
        visit_byte_buf: Vec<u8>;
    }
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        let Self { visitor, walk, path, wanted } = self;
        visitor.visit_none::<Stop>().map_err(|stop| {
            walk.note_stop(&path, &wanted, &stop);
            E::custom(stop)
        })
    }
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        let Self { visitor, walk, path, wanted } = self;
        visitor.visit_unit::<Stop>().map_err(|stop| {
            walk.note_stop(&path, &wanted, &stop);
            E::custom(stop)
        })
    }
    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Part { inner, walk: self.walk, path: self.path })
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Part { inner, walk: self.walk, path: self.path })
    }
    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Self { visitor, walk, path, wanted } = self;
        let list = ListPart { inner, walk, path: path.clone(), next: 0 };
        visitor.visit_seq(list).map_err(|stop| {
            walk.note_stop(&path, &wanted, &stop);
            A::Error::custom(stop)
        })
    }
    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Self { visitor, walk, path, wanted } = self;
        let child = |p: &&Vec<Step>| p.len() == path.len() + 1 && p.starts_with(&path);
        let missing = walk.made_up.iter().filter(child).cloned().collect();
        let map = MapPart { inner, walk, path: path.clone(), at: Vec::new(), missing, making_up: false };
        visitor.visit_map(map).map_err(|stop| {
            walk.note_stop(&path, &wanted, &stop);
            A::Error::custom(stop)
        })
    }
    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(ChoicePart { inner, walk: self.walk, path: self.path })
    }
}

struct ListPart<'w, A> {
    inner: A,
    walk: &'w Walk,
    path: Vec<Step>,
    next: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for ListPart<'_, A> {
    type Error = Stop;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Stop> {
        loop {
            let mut path = self.path.clone();
            path.push(Step::Index(self.next));
            self.next += 1;
            if !self.walk.without.contains(&path) {
                return self.inner.next_element_seed(Seed { seed, walk: self.walk, path }).map_err(Stop::custom);
            }
            if self.inner.next_element::<IgnoredAny>().map_err(Stop::custom)?.is_none() {
                return Ok(None);
            }
        }
    }
}

struct MapPart<'w, A> {
    inner: A,
    walk: &'w Walk,
    path: Vec<Step>,
    /// Whose value comes next.
    at: Vec<Step>,
    /// Given after all others.
    missing: Vec<Vec<Step>>,
    making_up: bool,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for MapPart<'_, A> {
    type Error = Stop;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Stop> {
        loop {
            let Some(key) = self.inner.next_key::<String>().map_err(Stop::custom)? else {
                let Some(path) = self.missing.pop() else { return Ok(None) };
                let Some(Step::Key(key)) = path.last().cloned() else { return Ok(None) };
                (self.at, self.making_up) = (path, true);
                return seed.deserialize(IntoDeserializer::<Stop>::into_deserializer(key)).map(Some);
            };
            self.at = self.path.clone();
            self.at.push(Step::Key(key.clone()));
            if self.walk.without.contains(&self.at) {
                self.inner.next_value::<IgnoredAny>().map_err(Stop::custom)?;
                continue;
            }
            let key: StringDeserializer<Stop> = key.into_deserializer();
            return seed
                .deserialize(key)
                .inspect_err(|stop| self.walk.note_stop(&self.at, &Wanted::Anything, stop))
                .map(Some);
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Stop> {
        if self.making_up {
            let made = seed.deserialize(MadeUp);
            return made.inspect_err(|_| self.walk.note(&self.at, &Wanted::Anything, Problem::NotMadeUp));
        }
        let seed = Seed { seed, walk: self.walk, path: self.at.clone() };
        self.inner.next_value_seed(seed).map_err(Stop::custom)
    }
}

struct ChoicePart<'w, A> {
    inner: A,
    walk: &'w Walk,
    path: Vec<Step>,
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for ChoicePart<'_, A> {
    type Error = A::Error;
    type Variant = A::Variant;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, A::Variant), A::Error> {
        self.inner.variant_seed(Seed { seed, walk: self.walk, path: self.path })
    }
}
