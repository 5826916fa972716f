//! The built-in catalogue: applications that are there without any repository, each a chart and a page that says what it is, what it
//! asks and what it needs. The small servers that these charts run are in [`sample`].
//!
//! Not here: how a chart becomes a release (`atoll-chart`), and catalogues of others.

pub mod sample;

use atoll_chart::{Chart, ChartError, File};

/// One value that an application asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Its path among the values, such as `image.tag`.
    pub path: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// Whether the application is of no use without it.
    pub required: bool,
}

/// What an application needs of an eVDC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Nodes, so that its replicas are apart.
    pub nodes: usize,
    /// Memory over all its pods, in MiB.
    pub memory_mib: u64,
    /// Storage, in MiB.
    pub storage_mib: u64,
    /// Whether a gateway makes it reachable.
    pub gateway: bool,
}

/// An application of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct App {
    /// The name it is installed by.
    pub name: &'static str,
    /// One line on what it is.
    pub summary: &'static str,
    /// A page on what it is and does, in Markdown.
    pub page: &'static str,
    /// What it asks for.
    pub asks: &'static [Ask],
    /// What it needs.
    pub needs: Needs,
    files: &'static [(&'static str, &'static str)],
}

impl App {
    /// Its chart.
    ///
    /// # Errors
    /// The embedded chart is damaged, which a test rules out.
    pub fn chart(&self) -> Result<Chart, ChartError> {
        let file = |(name, text): &(&str, &str)| File { name: (*name).to_owned(), data: text.as_bytes().to_vec() };
        Chart::from_files(self.files.iter().map(file).collect())
    }
}

/// All applications, by name.
#[must_use]
pub fn catalogue() -> &'static [App] {
    CATALOGUE
}

/// An application by its name.
#[must_use]
pub fn find(name: &str) -> Option<&'static App> {
    CATALOGUE.iter().find(|it| it.name == name)
}

/// The files of a chart that lies in `charts/`.
macro_rules! files {
    ($chart:literal: $($name:literal)*) => {
        &[$(($name, include_str!(concat!("../charts/", $chart, "/", $name)))),*]
    };
}

const HOST: Ask =
    Ask { path: "host", what: "the name under which it opens, such as shop.example.org", required: false };
const TAG: Ask = Ask { path: "image.tag", what: "the version to run", required: false };

const CATALOGUE: &[App] = &[
    App {
        name: "guestbook",
        summary: "A page that visitors sign, with a database that survives its machine",
        page: "Two web servers on different nodes show a page with a form; what visitors write goes to a small database of one \
               replica, which acknowledges an entry once it is on its volume. The volume is a file system on zstor, dispersed over \
               the nodes: if the database's node is lost, it goes on elsewhere with every entry.\n\nVersions are rolled out without \
               a failed request: a server that is to stop first says that it is not ready and then finishes what it has begun.\n",
        asks: &[
            HOST,
            TAG,
            Ask { path: "title", what: "the page's title", required: false },
            Ask { path: "web.replicas", what: "web servers, each on a node of its own", required: false },
            Ask { path: "db.storage", what: "size of the database's volume", required: false },
        ],
        needs: Needs { nodes: 3, memory_mib: 320, storage_mib: 1024, gateway: true },
        files: files!("guestbook": "Chart.yaml" "values.yaml" "templates/_helpers.tpl" "templates/web.yaml" "templates/db.yaml" "templates/NOTES.txt"),
    },
    App {
        name: "website",
        summary: "A web site from files that you give",
        page: "Serves the files that you give as values, from two replicas on different nodes where there are two. A change of the \
               files is rolled out without a failed request.\n",
        asks: &[
            HOST,
            Ask { path: "files", what: "the pages by name, together under 1 MiB", required: false },
            Ask { path: "replicas", what: "how many servers", required: false },
        ],
        needs: Needs { nodes: 1, memory_mib: 128, storage_mib: 0, gateway: true },
        files: files!("website": "Chart.yaml" "values.yaml" "templates/_helpers.tpl" "templates/site.yaml" "templates/NOTES.txt"),
    },
];
