//! How the parts of a manifest are written, for messages: by the names of fields, and of the types of mappings.

pub(super) fn of(name: &str) -> Option<&'static str> {
    Some(match name {
        "apiVersion" => "pumasi/v1",
        "kind" => "Service",
        "metadata" | "Metadata" => "{name: hello}",
        "name" => "hello",
        "spec" | "ServiceSpec" => "{hosts: [hello.example], application: {bundle: app, command: [./server]}}",
        "hosts" => "[hello.example]",
        "application" | "Application" => "{bundle: app, command: [./server]}",
        "bundle" => "app",
        "command" => "[./server]",
        "Instances" => "{home: 3}",
        "home" | "HomeRange" => "{min: 1, max: 3}",
        "Platform" => "{runtimes: [python3]}",
        "Resources" => "{cpu_millis: 250, memory_mib: 128}",
        "Probe" => "{path: /health}",
        "Dataset" => "{name: notes, kind: sqlite, file: notes.db}",
        "Objective" => "{queue_delay_p95_ms: 50}",
        "Routing" => "{home_only: [/admin]}",
        "LessImportant" => "{paths: [/feed]}",
        "Borrowing" => "{mode: ask, instances_max: 4}",
        "Continuity" => "{clouds: [city-b], warm: 1}",
        "Document" => "{apiVersion: pumasi/v1, kind: Service, metadata: {name: hello}, spec: {..}}",
        _ => return None,
    })
}
