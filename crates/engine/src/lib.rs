//! Compute drivers behind one port: [`ProcessEngine`] runs real processes, [`SimEngine`] plays them in virtual time.
//!
//! Enters: instance specs. Leaves: statuses, logs, and the proof that nothing is left.
//! Always holds: every call may be repeated after a crash between any two lines; an instance outlives the daemon; what an
//! engine cannot isolate it says, and does not lend.

mod address;
mod confine;
mod error;
mod limits;
mod measure;
mod port;
mod process;
mod rules;
mod session;
mod sim;
pub mod stamp;

pub use address::free_address;
pub use confine::enter as enter_cell;
pub use error::EngineError;
pub use limits::{Limits, Rate};
pub use measure::{Measured, measure};
pub use port::{
    Access, BoxFuture, Capabilities, CgroupVersion, DataMount, Engine, Exit, Freeze, FreezeBy, InstanceSpec,
    InstanceState, InstanceStatus, Isolation, Prepare, Remains, Secrets, TerminalSize, Trouble,
};
pub use process::{
    EgressPolicy, Helper, HelperSpec, ProcessConfig, ProcessEngine, Room, forget, instance_exec_main, is_in_use,
    is_of_this_host, shim_main, uids_of_others,
};
pub use session::{Session, SessionStream};
pub use sim::{SimApp, SimEngine, SimExit};
