import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from crvq.data.readers import find_reader, read_jsonl, read_parquet, read_raw, read_txt
from crvq.errors import ConfigError, SourceError


def test_raw_rows_are_those_of_datasets(tmp_path):
    file = tmp_path / "wiki.raw"
    file.write_text(" \n = Title = \n \n Some text . \n", encoding="utf-8")
    # What load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1") gives for such lines.
    assert read_raw(file, "") == ["", " = Title = \n", "", " Some text . \n"]


def test_a_raw_file_without_a_last_newline_keeps_its_last_line(tmp_path):
    file = tmp_path / "wiki.raw"
    file.write_text("one\ntwo", encoding="utf-8")
    assert read_raw(file, "") == ["one\n", "two\n"]


def test_a_txt_file_is_one_document_verbatim(tmp_path):
    file = tmp_path / "a.txt"
    text = " first\n\n\nsecond \n"
    file.write_text(text, encoding="utf-8")
    assert "\n\n".join(read_txt(file, "")) == text


def test_jsonl_records_are_documents_and_blank_lines_are_none(tmp_path):
    file = tmp_path / "a.jsonl"
    records = [json.dumps({"body": "é\n1", "url": "x"}), "", json.dumps({"body": "2"})]
    file.write_text("\n".join(records) + "\n")
    assert read_jsonl(file, "body") == ["é\n1", "2"]


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ('{"body": 1', SourceError, "line 2 is not JSON"),
        ('"text"', SourceError, "line 2 is not a JSON object"),
        ('{"body": 3}', SourceError, "line 2: body is int, not text"),
        ('{"body": null, "other": "x"}', SourceError, "line 2: body is NoneType.*it has: body, o"),
        (
            '{"body": "a\\ud83d"}',
            SourceError,
            r"line 2: .*lone surrogate '.ud83d' at character 1",
        ),
        ("[" * 100_000, SourceError, "line 2 is not JSON"),
        ('{"other": "x"}', ConfigError, "column=body is not in .*line 2; it has: other"),
    ],
)
def test_bad_jsonl_lines_are_named(tmp_path, line, error, says):
    file = tmp_path / "a.jsonl"
    file.write_text('{"body": "fine"}\n' + line + "\n")
    with pytest.raises(error, match=says):
        read_jsonl(file, "body")


def test_parquet_rows_are_documents(tmp_path):
    file = tmp_path / "a.parquet"
    table = pyarrow.table({"id": [1, 2], "body": ["one", "two"]})
    pyarrow.parquet.write_table(table, file)
    assert read_parquet(file, "body") == ["one", "two"]
    with pytest.raises(ConfigError, match=r"column=text is not in .*it has: id, body"):
        read_parquet(file, "text")


def test_a_broken_parquet_file_is_told(tmp_path):
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1 and no more")
    with pytest.raises(SourceError, match="not a readable parquet file"):
        read_parquet(file, "text")


@pytest.mark.parametrize("name", ["c4-validation.00000-of-00008.json.gz", "a.jsonl.gz"])
def test_shards_as_the_hub_has_them_need_not_be_unpacked(tmp_path, name):
    file = tmp_path / name
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.write(json.dumps({"text": "é"}) + "\n" + json.dumps({"text": "2"}) + "\n")
    assert find_reader(file)(file, "text") == ["é", "2"]


def test_other_packed_files_have_no_reader(tmp_path):
    assert find_reader(tmp_path / "a.gz") is None
    assert find_reader(tmp_path / "a.csv") is None


@pytest.mark.parametrize("left", [0.3, 0.9, 0.999])
def test_a_cut_shard_says_how_far_it_goes(tmp_path, left):
    lines = "".join(json.dumps({"text": f"{number} {'x' * 50}"}) + "\n" for number in range(2000))
    file = tmp_path / "c4.json.gz"
    whole = gzip.compress(lines.encode())
    file.write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(SourceError, match=r"c4\.json\.gz is cut short or damaged after line \d+"):
        read_jsonl(file, "text")
    file.write_bytes(whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
    with pytest.raises(SourceError, match=r"c4\.json\.gz"):
        read_jsonl(file, "text")
    file.write_text(lines)  # not compressed at all
    with pytest.raises(SourceError, match="cut short or damaged after line 0: Not a gzipped file"):
        read_jsonl(file, "text")


def test_lines_that_are_not_utf8_are_named(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(SourceError, match=r"a\.jsonl, line 2 is not UTF-8 text: byte 0xe9"):
        read_jsonl(file, "text")
