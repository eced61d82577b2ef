"""YAML: values are text, sizes are bounded before anything is built, and each mistake is one short sentence."""

import os
import time
from pathlib import Path

import pytest

from crystalframer.errors import UserError
from crystalframer.yaml_reading import DEEPEST, MOST_BYTES, parse_set, parse_yaml, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(10 * [f'*{before}'])}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_values_are_text_whatever_yaml_1_1_takes_them_for() -> None:
    text = "{a: 2024, b: 1:30, c: 010, d: no, e: 5e-4, f: 2024-01-01, g: '7', h: .inf, i: =, j: null, k: ~, l: }"
    assert parse_yaml(text) == {
        **dict(zip("abcdefghi", ["2024", "1:30", "010", "no", "5e-4", "2024-01-01", "7", ".inf", "="], strict=True)),
        **dict.fromkeys("jkl"),
    }


def test_aliases_and_merges_are_understood() -> None:
    assert parse_yaml("{a: &a {x: 1, y: 2}, b: {<<: *a, y: 3}, c: *a}") == {
        "a": {"x": "1", "y": "2"},
        "b": {"x": "1", "y": "3"},
        "c": {"x": "1", "y": "2"},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "line 5: 111,111 values, expected at most 50,000"),
        ("a: &a [*a]", "line 1: a list or mapping contains itself"),
        ("a: &a {b: {c: *a}}", "line 1: a list or mapping contains itself"),
        ("a: *b", "undefined alias"),
        ((DEEPEST + 1) * "[", f"line 1: more than {DEEPEST} lists and mappings within each other"),
        (100_000 * "[", f"line 1: more than {DEEPEST}"),
        (100_000 * "{a: ", f"line 1: more than {DEEPEST}"),
        ("a: !!python/object:os.system {}", "line 1: got the tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: !!binary xx", "line 1: got the tag"),
        (f"{{{'x' * 900}: 1, {'x' * 900}: 2}}", r"key 'x+[.]{3}x+' is stated twice, on lines 1 and 1"),
        ("[a, b]: 1", "not valid YAML: while constructing a mapping"),
        ("a\x00b", "not valid YAML: unacceptable character"),
        ("a: 1\n---\nb: 2", "not valid YAML: expected a single document"),
    ],
)
def test_what_is_too_much_or_wrong_is_refused_in_a_short_sentence(text: str, said: str) -> None:
    start = time.process_time()
    with pytest.raises(UserError, match=said) as caught:
        parse_yaml(text)
    assert len(str(caught.value)) < 500
    assert time.process_time() - start < 5


def test_a_file_is_bounded_and_in_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    for content, said in [
        (b"a: " + MOST_BYTES * b"x", f"has {MOST_BYTES + 3:,} bytes, expected at most {MOST_BYTES:,}"),
        ("a: 1".encode("utf-16"), "is no text in UTF-8; save it in that encoding"),
        (b"a: \xff", "is no text in UTF-8"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_yaml(path)
    path.write_bytes("\ufeffa: Å".encode())
    assert read_yaml(path) == {"a": "Å"}
    with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\)"):
        read_yaml(tmp_path / "none.yaml")


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(UserError, match=r"cannot be read \(it is no regular file\)"):
            read_yaml(path)


def test_one_long_line_takes_no_longer_than_many_short_ones() -> None:
    seconds = []
    for separator in (", ", ",\n"):
        start = time.process_time()
        assert len(parse_yaml(f"[{separator.join(5000 * ['x'])}]")) == 5000
        seconds.append(time.process_time() - start)
    assert seconds[0] < 4 * seconds[1]


def test_set_has_one_grammar() -> None:
    texts = ["data.dataset=2024", "train.learning_rate=5e-4", "data.train_size=null", "record.seeds=[0, 1]"]
    texts += ["train.start_from=", " train.epochs =3", "train.epochs=4", "data.task=a,b", "x==1"]
    assert parse_set(texts) == {
        "data.dataset": "2024",
        "train.learning_rate": "5e-4",
        "data.train_size": None,
        "record.seeds": ["0", "1"],
        "train.start_from": None,
        "train.epochs": "4",
        "data.task": "a,b",
        "x": "=1",
    }
    with pytest.raises(UserError, match=r"--set: got 'train.epochs', expected KEY=VALUE such as train.epochs=20"):
        parse_set(["train.epochs"])
