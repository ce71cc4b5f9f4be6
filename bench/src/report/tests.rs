// SPDX-License-Identifier: GPL-2.0-only
//! Tests of whole reports. With SCX_BENCH_SAMPLE=FOLDER they are left there to be looked at.

use std::collections::BTreeSet;

use super::json::read;
use super::*;
use crate::analysis::Verdict;
use crate::fixture;
use crate::model::Mode;

/// Runs `test` with a folder for files: a new one each, or one that stays.
fn in_folder(name: &str, test: impl FnOnce(&Path)) {
    match std::env::var_os("SCX_BENCH_SAMPLE") {
        Some(folder) => test(&Path::new(&folder).join(name)),
        None => test(&tempfile::tempdir().unwrap().path().join(name)),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Whether every element that is opened is closed, in order.
fn is_balanced(page: &str) -> bool {
    const VOID: [&str; 9] =
        ["meta", "br", "col", "!DOCTYPE", "line", "circle", "rect", "polyline", "polygon"];
    let body = page.replace(include_str!("html/style.css"), "");
    let mut open: Vec<&str> = Vec::new();
    for tag in body.split('<').skip(1) {
        let Some((tag, _)) = tag.split_once('>') else { return false };
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap_or_default();
        if VOID.contains(&name) || tag.ends_with('/') {
            continue;
        }
        if tag.starts_with('/') {
            if open.pop() != Some(name) {
                return false;
            }
        } else {
            open.push(name);
        }
    }
    open.is_empty()
}

#[test]
fn every_kind_is_written_in_whole() {
    for (name, report) in fixture::all() {
        in_folder(name, |dir| {
            let files = write(dir, &Document::new(report.clone())).unwrap();
            let mut expected: BTreeSet<PathBuf> =
                ["index.html", "report.json", "report.md"].iter().map(|file| dir.join(file)).collect();
            expected.extend(report.workloads.iter().map(|w| dir.join(format!("{}.csv", w.name))));
            expected.extend((!report.swaps.is_empty()).then(|| dir.join("swaps.csv")));
            assert_eq!(files.iter().cloned().collect::<BTreeSet<_>>(), expected);
            assert_eq!(files[0], dir.join("index.html"));
            // Nothing temporary is left.
            assert_eq!(fs::read_dir(dir).unwrap().count(), files.len());
            let mode = fs::metadata(&files[0]).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o644);

            assert_eq!(read(dir).unwrap(), report);
            let document: Document =
                serde_json::from_slice(&fs::read(dir.join("report.json")).unwrap()).unwrap();
            assert_eq!(document, Document::new(report.clone()));
            check_page(&fs::read_to_string(&files[0]).unwrap(), &report);
            // Once more, over what is there.
            write(dir, &Document::new(report.clone())).unwrap();
        });
    }
}

fn check_page(page: &str, report: &Report) {
    assert!(is_balanced(page));
    for resource in ["http:", "https:", "<script", "<link", "<img", "@import", "url("] {
        assert!(!page.contains(resource), "{resource}");
    }
    let shown = report.settings.contenders.iter().chain(report.workloads.iter().map(|w| &w.name));
    for name in shown.chain(report.swaps.iter().map(|swap| &swap.via)) {
        assert!(page.contains(&escaped(name)), "{name}");
        assert!(!name.contains('<') || !page.contains(name.as_str()), "{name} is not escaped");
    }
    for failure in &report.failures {
        assert!(page.contains(&escaped(&failure.message)));
    }
    let machine = report.machine.as_ref().unwrap();
    for setting in [&machine.kernel, &machine.cpu, &machine.cmdline, &report.settings.version] {
        assert!(page.contains(setting.as_str()), "{setting}");
    }
}

#[test]
fn a_page_has_its_charts() {
    for (name, charts) in [("compare", 1 + 2 + 8), ("scale", 5 + 14), ("cost", 1), ("swap", 3)] {
        let report = fixture::all().into_iter().find(|(n, _)| *n == name).unwrap().1;
        let page = html::page(&View::of(&Document::new(report)));
        assert_eq!(page.matches("<figure>").count(), charts, "{name}");
        assert!(!page.contains("cannot be drawn"));
    }
    let page = html::page(&View::of(&Document::new(fixture::scale())));
    assert!(page.contains("<strong>fifo</strong> stops scaling at 16 CPUs"));
}

#[test]
fn nothing_measured() {
    for (_, mut report) in fixture::all() {
        report.cells.clear();
        report.swaps.clear();
        report.machine = None;
        report.interrupted = true;
        in_folder("nothing", |dir| {
            let files = write(dir, &Document::new(report.clone())).unwrap();
            let page = fs::read_to_string(&files[0]).unwrap();
            assert!(is_balanced(&page) && page.contains("interrupted"));
        });
    }
}

#[test]
fn one_run_and_values_that_are_no_number() {
    let mut report = fixture::compare();
    report.cells.retain(|cell| cell.round == 0);
    report.cells[0].measured.values.insert("per_switch".into(), f64::NAN);
    report.cells[1].measured.histograms.clear();
    in_folder("one-run", |dir| {
        write(dir, &Document::new(report.clone())).unwrap();
        assert!(!read(dir).unwrap().cells[0].measured.values.contains_key("per_switch"));
    });
}

#[test]
fn markdown_for_a_pull_request() {
    let text = to_text(&Document::new(fixture::compare()));
    assert!(text.contains("| pipe per_switch | 1."), "{text}");
    assert!(text.contains("| ✗ 1.1") && text.contains("## Failures") && text.contains("6.17.0-rc4-scx"));
    assert!(text.contains("cmd:scx_lavd --slice &lt;5ms>"));
    assert!(
        to_text(&Document::new(fixture::swap()))
            .contains("| slots: fifo → vtime, 8 CPUs | 5 | 412 ns (414 ns) |")
    );
}

#[test]
fn csv_has_a_row_for_each_run_and_metric() {
    let files = csv::files(&fixture::compare()).unwrap();
    let text = String::from_utf8(files[0].1.clone()).unwrap();
    assert_eq!(files[0].0, "pipe.csv");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "contender,cpus,round,seed,metric,unit,value");
    assert!(lines[1].starts_with("kernel,8,0,1,per_switch,ns,1"), "{}", lines[1]);
    assert_eq!(lines.len(), 1 + 3 * 5 * (1 + crate::kernel_view::metrics().len()));
    let mut report = fixture::compare();
    report.workloads[0].name = "../x/y".into();
    assert_eq!(csv::files(&report).unwrap()[0].0, "_x_y.csv");
}

#[test]
fn errors_are_one_line_with_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = |result: Result<Vec<PathBuf>>| format!("{:#}", result.unwrap_err());

    let below = error(write(&file.join("below"), &Document::new(fixture::cost())));
    assert!(below.starts_with("cannot make the folder /") && below.lines().count() == 1, "{below}");
    // A folder is in the place of a file: as good as one that cannot be written, also for root.
    fs::create_dir_all(dir.path().join("report/index.html/x")).unwrap();
    let taken = error(write(&dir.path().join("report"), &Document::new(fixture::cost())));
    assert!(taken.starts_with("cannot write /") && taken.contains("index.html: "), "{taken}");
    // Not even root can make a file there.
    let proc = error(write(Path::new("/proc/self"), &Document::new(fixture::cost())));
    assert!(
        proc.starts_with("cannot write /proc/self/index.html: ") && !proc.contains(".scx_bench-"),
        "{proc}"
    );

    let wrong = |text: &str| {
        fs::write(&file, text).unwrap();
        format!("{:#}", read(&file).unwrap_err())
    };
    assert!(wrong("{}").contains("is not a report of scx_bench"));
    assert!(
        wrong("{\"schema\": 99}").ends_with("has format 99, this scx_bench reads format 1: measure again")
    );
    assert!(format!("{:#}", read(Path::new("/no/such")).unwrap_err()).starts_with("cannot read /no/such: "));
}

#[test]
fn side_by_side_contenders_have_labels() {
    let (before, mut after) = (fixture::compare(), fixture::compare());
    after.cells.iter_mut().filter(|c| c.contender == "fifo").for_each(|cell| {
        cell.measured.values.values_mut().for_each(|value| *value *= 1.3);
    });
    let reports = vec![("old".to_owned(), before), ("new".to_owned(), after)];
    let whole = side_by_side(reports.clone()).unwrap();
    assert_eq!(whole.settings.contenders.len(), 6);
    assert_eq!(whole.settings.contenders[4], "new: fifo");
    assert_eq!(whole.workloads.len(), 4);
    let comparisons = crate::analysis::analyse(&whole);
    let same = comparisons.iter().filter(|c| c.contender == "new: kernel");
    assert!(same.clone().count() > 0 && same.into_iter().all(|c| c.verdict == Verdict::Same));
    in_folder("side-by-side", |dir| {
        let page = fs::read_to_string(&write_side_by_side(dir, reports).unwrap()[0]).unwrap();
        assert!(is_balanced(&page) && page.contains("new: fifo") && page.contains("<h3>old</h3>"));
    });

    let mut other = fixture::compare();
    other.settings.mode = Mode::Deterministic;
    let mixed = |report| side_by_side(vec![("a".into(), fixture::compare()), ("b".into(), report)]);
    assert!(mixed(other).unwrap_err().to_string().contains("different things"));
    assert!(mixed(fixture::swap()).unwrap_err().to_string().contains("different commands"));
    assert!(side_by_side(Vec::new()).is_err());
}

/// The names of all fields in a value, but not those of maps, whose keys are data.
fn field_names(value: &serde_json::Value, names: &mut BTreeSet<String>) {
    const MAPS: [&str; 3] = ["values", "histograms", "programs"];
    match value {
        serde_json::Value::Object(object) => {
            for (name, value) in object {
                names.insert(name.clone());
                match value {
                    serde_json::Value::Object(map) if MAPS.contains(&name.as_str()) => {
                        map.values().for_each(|value| field_names(value, names));
                    }
                    value => field_names(value, names),
                }
            }
        }
        serde_json::Value::Array(array) => array.iter().for_each(|value| field_names(value, names)),
        _ => {}
    }
}

#[test]
fn the_schema_is_documented() {
    let page = include_str!("../../../docs/report-json.md");
    let mut names = BTreeSet::new();
    for (_, report) in fixture::all() {
        field_names(&serde_json::to_value(Document::new(report)).unwrap(), &mut names);
    }
    in_folder("example", |dir| drop(write(dir, &Document::new(fixture::example())).unwrap()));
    assert!(names.len() > 60, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "docs/report-json.md does not tell of `{name}`");
    }
    assert!(page.contains(&format!("format {}", crate::model::SCHEMA)));
    // The example in it is one.
    let example = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let document: Document = serde_json::from_str(example).unwrap();
    assert_eq!(document, Document::new(fixture::example()), "take it from $SCX_BENCH_SAMPLE/example");
}
