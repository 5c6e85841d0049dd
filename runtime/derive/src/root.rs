//! Where generated code finds the crates it names. Every derive asks here; an attribute on the type wins.

use proc_macro2::TokenStream;
use quote::quote;
use syn::Path;

/// The crate that the user of a macro depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// The crates of the workspace, each by its own name.
    Workspace,
    /// The crate `highwater`, which holds the others as modules.
    Facade,
}

impl Root {
    /// The path of `highwater-types`.
    pub(crate) fn types(self, chosen: Option<&Path>) -> TokenStream {
        match (chosen, self) {
            (Some(path), _) => quote!(#path),
            (None, Self::Workspace) => quote!(::highwater_types),
            (None, Self::Facade) => quote!(::highwater::types),
        }
    }

    /// The path of `highwater-json`.
    pub(crate) fn json(self, chosen: Option<&Path>) -> TokenStream {
        match (chosen, self) {
            (Some(path), _) => quote!(#path),
            (None, Self::Workspace) => quote!(::highwater_json),
            (None, Self::Facade) => quote!(::highwater::json),
        }
    }
}
