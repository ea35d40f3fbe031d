//! Release: drain, return what belongs home, prove that nothing is left behind, settle.
//!
//! Enters: what is known of a part that shall end, now. Leaves: the next acts, in an order that loses no request and no data.
//! Always holds: nothing is erased before it is drained; nothing is forgotten before it is proven empty or its lender is known to be gone.
