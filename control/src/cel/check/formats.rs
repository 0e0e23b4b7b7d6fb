//! Formats that are written out, against the types of what is written out to fill them.
use super::{Checked, is_any};
use crate::cel::Mistake;
use crate::cel::formats::{Piece, Pieces, refusal};
use crate::cel::syntax::{Expr, Literal, Node};
use crate::cel::types::Type;

/// What is wrong with a call of `format`; nothing is known of one whose format or values are not written out.
pub(super) fn mistake(call: &Expr, target: &Expr, args: &[Expr], found: &[Checked]) -> Option<Mistake> {
    let (
        Node::Literal(Literal::String(format)),
        [
            Expr {
                node: Node::List(items),
                ..
            },
        ],
        [list],
    ) = (&target.node, args, found)
    else {
        return None;
    };
    let values: Vec<(&Expr, &Checked)> = items.iter().map(|(item, _)| item).zip(&list.parts).collect();
    filled(call.at, format, &values).err()
}

fn filled(at: usize, format: &str, values: &[(&Expr, &Checked)]) -> Result<(), Mistake> {
    let mut taken = 0;
    for piece in Pieces(format) {
        let clause = match piece {
            Piece::Text(_) => continue,
            Piece::End => return Err(Mistake::new(at, "unexpected end of string")),
            Piece::Clause(clause) => clause,
        };
        let (value, checked) = values
            .get(taken)
            .ok_or_else(|| Mistake::new(at, format!("index {taken} out of range")))?;
        taken += 1;
        let clause = clause.map_err(|why| Mistake::new(at, why))?;
        shown(clause.verb, value, checked)?;
    }
    match values.len() > taken {
        true => {
            let count = values.len();
            let why = format!("too many arguments supplied to string.format (expected {taken}, got {count})");
            Err(Mistake::new(at, why))
        }
        false => Ok(()),
    }
}

/// Fails for a value of a type that the clause cannot show.
fn shown(verb: u8, value: &Expr, checked: &Checked) -> Result<(), Mistake> {
    let ty = &checked.ty;
    let takes = match verb {
        b's' => return spelled(value, checked),
        b'd' | b'o' => matches!(ty, Type::Int | Type::Uint),
        b'f' | b'e' => matches!(ty, Type::Double | Type::String),
        b'b' => matches!(ty, Type::Int | Type::Uint | Type::Bool),
        _ => matches!(ty, Type::Int | Type::Uint | Type::String | Type::Bytes),
    };
    match takes || is_any(ty) {
        true => Ok(()),
        false => Err(refused(verb, value, ty)),
    }
}

fn refused(verb: u8, value: &Expr, ty: &Type) -> Mistake {
    let (why, given) = (refusal(verb), plain(ty));
    Mistake::new(
        value.at,
        format!("error during formatting: {why}, was given {given}"),
    )
}

/// `%s` takes nearly everything, and lists and maps of that.
fn spelled(value: &Expr, checked: &Checked) -> Result<(), Mistake> {
    let takes = is_any(&checked.ty)
        || checked.ty.is_ordered()
        || matches!(
            checked.ty,
            Type::Null | Type::List(..) | Type::Map(..) | Type::Type(_)
        );
    if !takes {
        return Err(refused(b's', value, &checked.ty));
    }
    let mut parts = Vec::new();
    match &value.node {
        Node::List(items) => parts.extend(items.iter().map(|(item, _)| item)),
        Node::Map(entries) => parts.extend(entries.iter().flat_map(|(key, value, _)| [key, value])),
        _ => {}
    }
    parts
        .iter()
        .zip(&checked.parts)
        .try_for_each(|(part, checked)| spelled(part, checked))
}

/// The name of a type without those of its parts.
fn plain(ty: &Type) -> String {
    match ty {
        Type::Null => "null_type".to_owned(),
        Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
        Type::Duration => "google.protobuf.Duration".to_owned(),
        Type::List(..) => "list".to_owned(),
        Type::Map(..) => "map".to_owned(),
        Type::Optional(_) => "optional_type".to_owned(),
        Type::Type(_) => "type".to_owned(),
        other => other.to_string(),
    }
}
