use super::*;

fn select(source: &Source) -> Result<Vec<u64>> {
    let rows = (0..8_u64).map(|i| {
        let kind = if i % 2 == 0 { "even" } else { "odd" };
        Map::from_iter([("n".to_owned(), Value::from(i)), ("kind".to_owned(), Value::from(kind))])
    });
    let rows = source.select(rows.collect(), |row| row)?;
    Ok(rows.iter().filter_map(|row| row["n"].as_u64()).collect())
}

#[test]
fn filter_shuffle_range() {
    let filter = BTreeMap::from([("kind".to_owned(), "odd".to_owned())]);
    let mut source = Source { filter, take: RowRange::parse("1-2").ok(), ..Source::default() };
    assert_eq!(select(&source).unwrap(), [3, 5]);
    source.filter.clear();
    source.take = None;
    source.shuffle = Some(1);
    let shuffled = select(&source).unwrap();
    assert_ne!(shuffled, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(shuffled, select(&source).unwrap());
    source.filter.insert("kind".into(), "none".into());
    assert!(select(&source).unwrap_err().to_string().contains("no row of it is chosen"));
    source.filter.insert("sort".into(), "odd".into());
    assert!(select(&source).unwrap_err().to_string().contains("`where` names `sort`"));
}

#[test]
fn rows_with_a_system_turn_or_a_history_are_refused_unless_others_are_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.jsonl");
    let rows = "{\"input\":\"a\",\"output\":\"b\",\"system\":\"\"}\n\
                {\"input\":\"c\",\"output\":\"d\",\"system\":\"Be brief.\"}\n";
    std::fs::write(&path, rows).unwrap();
    let (whole, assets) = (Source::file(&path), Assets::InCache);
    let read = |source: &Source| {
        let records = source.records(&assets).map(|rows| rows.len());
        (records, source.questions(&assets).map(|rows| rows.len()), source.pairs(&assets).map(|rows| rows.len()))
    };
    let (records, questions, pairs) = read(&whole);
    for error in [records, questions, pairs].map(|read| read.unwrap_err().to_string()) {
        assert!(error.contains("row 1 of those chosen has `system`"), "{error}");
    }
    let filter = BTreeMap::from([("system".to_owned(), String::new())]);
    let (records, questions, pairs) = read(&Source { filter, ..whole });
    assert_eq!((records.unwrap(), questions.unwrap(), pairs.unwrap()), (1, 1, 1));

    std::fs::write(&path, "{\"question\":\"Who?\",\"context\":\"It was Bo.\",\"answer\":\"Bo\"}\n").unwrap();
    assert!(Source::file(&path).questions(&assets).unwrap_err().to_string().contains("`context`"));
    let named = Source { input: Some("question".into()), ..Source::file(&path) };
    assert_eq!(named.questions(&assets).unwrap()[0].text, "Who?");
}

#[test]
fn rows_are_chosen_on_the_command_line_as_in_a_run_file() {
    let source =
        Source::flag(Path::new("x.csv?column=prompt&where=label:safe&where=type:a:b&take=0-49&shuffle=3")).unwrap();
    assert_eq!((source.path.to_str(), source.input.as_deref()), (Some("x.csv"), Some("prompt")));
    assert_eq!(source.filter, BTreeMap::from([("label".into(), "safe".into()), ("type".into(), "a:b".into())]));
    assert_eq!((source.take, source.shuffle), (RowRange::parse("0-49").ok(), Some(3)));
    assert_eq!(Source::flag(Path::new("x.csv")).unwrap(), Source::file(Path::new("x.csv")));
    for wrong in [
        "x?",
        "x?take=z",
        "x?take=1&take=2",
        "x?where=a:b&where=a:c",
        "x?input=a&column=b",
        "x?where=a",
        "x?shuffle=",
        "x?rows=1",
        "x?column=",
    ] {
        assert!(Source::flag(Path::new(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn flags_of_their_own_complete_a_choice_of_rows_and_do_not_contradict_it() {
    let own = |column: Option<&str>, take: Option<&str>| Source {
        input: column.map(ToOwned::to_owned),
        take: take.and_then(|take| RowRange::parse(take).ok()),
        ..Source::default()
    };
    let read = |text: &str, own: Source| {
        let mut problems = Problems::default();
        let source = Source::flags(Path::new(text), own, "--questions", &mut problems);
        (source, problems.messages())
    };
    let (source, problems) = read("x.csv?where=label:unsafe&take=0-9", own(Some("prompt"), None));
    assert_eq!((source.input.as_deref(), source.take), (Some("prompt"), RowRange::parse("0-9").ok()));
    assert!(problems.is_empty() && source.filter["label"] == "unsafe");
    let (_, problems) = read("x.csv?column=a&take=0-9", own(Some("b"), Some("5")));
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("--questions: x.csv: `column` is said twice"), "{problems:?}");
    assert_eq!(read("x.csv?rows=1", own(None, None)).0.path, Path::new("x.csv"));
}

#[test]
fn questions_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.csv");
    std::fs::write(
        &path,
        "goal,prompt,target,kind,answer,ContextString\nnot this,Why?,Sure,x,f,\nnor this,How?,Fine,y,g,no part\n",
    )
    .unwrap();
    let source = Source { input: Some("prompt".into()), ..Source::file(&path) };
    let assets = Assets::InCache;
    let questions = source.questions(&assets).unwrap();
    let written = dir.path().join("q.jsonl");
    eraser_data::files::write_jsonl(&written, questions.iter().map(question_row)).unwrap();
    let again = Source::file(&written).questions(&assets).unwrap();
    for (a, b) in questions.iter().zip(&again) {
        assert_eq!((&a.id, &a.text, &a.facts), (&b.id, &b.text, &b.facts));
    }
    assert_eq!(again[1].extra["kind"], "y");

    let set = |output: &str| Source { output: Some(output.into()), ..source.clone() }.records(&assets);
    assert_eq!(set("target").unwrap()[0].output, "Sure");
    assert_eq!(set("answer").unwrap()[1].output, "g");
    assert!(set("none").is_err());
}
