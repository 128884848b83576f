"""Studies as they are written: what a file means, and what is said of one that cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notsure.core.errors import ConfigurationError
from notsure.studies.document import merged, parse
from notsure.studies.grid import expanded
from notsure.studies.spec import Study, load_study, names, study_of

BASE = """\
name: small
title: A study of two networks
data:
  digits: {source: digits, train: 300}
defaults:
  networks:
    architecture: digits_cnn
    data: digits
    recipe: {epochs: 4, learning_rate: 1e-3}
networks:
  ce: {}
  rce: {objective: ReverseCrossEntropy, recipe: {epochs: 5}}
attacks:
  fgsm: FGSM
  pgd: {kind: PGD, settings: {steps: 10}}
guards:
  ce: {network: ce, detectors: {density: KDensity}}
evaluations:
  main:
    guards: [ce]
    attacks: {oblivious: [fgsm, pgd], white-box: [pgd]}
    eps: [0.1, 8/255]
scales:
  smoke:
    networks:
      ce: {recipe: {epochs: 1}}
    attacks:
      pgd: {settings: {steps: 2}}
  cpu:
"""


def read(text: str, scale: str = "cpu") -> Study:
    return study_of(text, "small.yaml", scale)


def entries(text: str) -> dict[str, object]:
    """What an entry, `entry: {NAME: {...}}`, stands for."""
    section = parse(text, "grid.yaml").mapping("grid")["entry"]
    ((name, node),) = section.mapping("entry").items()
    return {own: body.plain() for own, body in expanded(name, section.keys[name], node)}


def test_what_is_said_comes_before_the_defaults_and_the_scale_before_both() -> None:
    study, smoke = read(BASE), read(BASE, "smoke")
    recipe = study.networks["ce"].recipe
    assert recipe == {"epochs": 4, "learning_rate": 0.001}
    assert study.networks["rce"].recipe == {"epochs": 5, "learning_rate": 0.001}
    assert smoke.networks["ce"].recipe == {"epochs": 1, "learning_rate": 0.001}
    # only what a scale names differs
    assert smoke.networks["rce"] == study.networks["rce"]
    assert [one.kind for one in study.networks["rce"].objective] == ["ReverseCrossEntropy"]
    assert smoke.attacks["pgd"].settings == {"steps": 2}
    assert study.attacks["fgsm"].settings == {}
    assert study.guards["ce"].detectors["density"].kind == "KDensity"
    assert study.evaluations["main"].eps == (0.1, "8/255")
    assert (study.scale, smoke.scale) == ("cpu", "smoke")


def test_a_scale_can_leave_entries_out_and_shrink_what_is_written_short() -> None:
    own = "  cpu:\n    networks: {rce: null}\n    attacks: {fgsm: {settings: {norm: l2}}}\n"
    study = read(BASE.replace("  cpu:\n", own))
    assert list(study.networks) == ["ce"]
    fgsm = study.attacks["fgsm"]
    assert (fgsm.kind, fgsm.settings) == ("FGSM", {"norm": "l2"})


def test_a_part_of_another_kind_does_not_inherit_settings() -> None:
    base = parse("{kind: PGD, settings: {steps: 10, decay: 1}}", "a")
    same = parse("{kind: PGD, settings: {steps: 3}}", "b")
    other = parse("{kind: FGSM}", "c")
    assert merged(base, same).plain() == {"kind": "PGD", "settings": {"steps": 3, "decay": 1}}
    assert merged(base, other).plain() == {"kind": "FGSM"}
    assert merged(parse("[1, 2]", "a"), parse("[3]", "b")).plain() == [3]


def test_null_takes_a_detector_of_the_defaults_away() -> None:
    text = BASE.replace(
        "defaults:\n", "defaults:\n  guards: {detectors: {confidence: Confidence}}\n"
    )
    assert set(read(text).guards["ce"].detectors) == {"confidence", "density"}
    text = text.replace("{density: KDensity}", "{density: KDensity, confidence: null}")
    assert set(read(text).guards["ce"].detectors) == {"density"}


def test_a_grid_keeps_the_types_of_its_values() -> None:
    found = entries(
        "entry:\n"
        "  n-{size}-{word}:\n"
        "    grid: {size: [1, 0.5], word: [a], flag: [true], part: [{kind: x, list: [1, null]}]}\n"
        '    size: "{size}"\n'
        '    text: "about {size} of {flag}, {{really}}"\n'
        '    "key-{size}": ["{flag}", "{part}"]\n'
    )
    part = {"kind": "x", "list": [1, None]}
    assert found == {
        "n-1-a": {"size": 1, "text": "about 1 of true, {really}", "key-1": [True, part]},
        "n-0.5-a": {"size": 0.5, "text": "about 0.5 of true, {really}", "key-0.5": [True, part]},
    }


def test_values_of_a_grid_may_hold_other_keys() -> None:
    text = '"net-{name}": {grid: {name: ["{depth}-{seed}"], depth: [2, 3], seed: [7]}, n: "{name}"}'
    assert entries(f"entry: {{{text}}}") == {"net-2-7": {"n": "2-7"}, "net-3-7": {"n": "3-7"}}


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True), max_size=3))
def test_a_grid_makes_every_combination_once(axes: list[list[int]]) -> None:
    keys = [f"k{number}" for number in range(len(axes))]
    grid = ", ".join(f"{key}: {values}" for key, values in zip(keys, axes, strict=True))
    fields = ", ".join(f'{key}: "{{{key}}}"' for key in keys)
    name = "-".join(["e", *(f"{{{key}}}" for key in keys)])
    found = entries(f'entry: {{"{name}": {{grid: {{{grid}}}, {fields}}}}}')
    expected: list[dict[str, int]] = [{}]
    for key, values in zip(keys, axes, strict=True):
        expected = [{**one, key: value} for one in expected for value in values]
    assert list(found.values()) == expected
    assert list(found) == ["-".join(["e", *map(str, one.values())]) for one in expected]


def marked(text: str) -> tuple[str, str]:
    """A text without its mark "§", and the line and column where it stood."""
    before, mark, after = text.partition("§")
    assert mark
    return before + after, f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('x: {grid: {§a: ["{b}"], b: ["{c}"], c: ["{a}"]}}', "circle: a -> b -> c -> a."),
        ('x: {grid: {§a: ["{a}"]}}', "circle: a -> a."),
        ('"x-{a}": {grid: {a: [1]}, f: §"{aa}"}', "{aa} is no key of this grid. Did you mean 'a'"),
        ('x: {f: §"{a}"}', "there is no grid here"),
        (
            '"x-{a}": {grid: {a: [1]}, f: §{a}}',
            'Quote the placeholder, or YAML takes it apart: "{a',
        ),
        ("§x: {grid: {a: [1, 2]}}", "Two combinations of the grid get the name 'x'"),
        ('"x-{a}": {grid: {a: §[]}}', "The values of 'a' have to be a list"),
        ('"x-{a}": {grid: {a: §3}}', "The values of 'a' have to be a list"),
        ('§"x-{a}": {grid: {a: [[1]]}}', "{a} is not one word"),
        ("x: {grid: {§a-b: [1]}}", "'a-b' cannot be the key of a grid"),
        ("x: {grid: §[1]}", "A grid has to be a mapping"),
    ],
)
def test_grids_that_cannot_be(text: str, said: str) -> None:
    text, place = marked("entry:\n  " + text)
    with pytest.raises(ConfigurationError) as caught:
        entries(text)
    assert str(caught.value).startswith(f"grid.yaml:{place}")
    assert said in str(caught.value)


def test_words_mean_what_they_look_like() -> None:
    text = "{a: no, b: off, c: 1e-3, d: 010, e: 1:30, f: true, g: ~, h: 2020-01-01, i: .5, j: '1'}"
    assert parse(text, "w.yaml").plain() == {
        "a": "no",
        "b": "off",
        "c": 0.001,
        "d": 10,
        "e": "1:30",
        "f": True,
        "g": None,
        "h": "2020-01-01",
        "i": 0.5,
        "j": "1",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:1: There is nothing in it"),
        ("a: 1\nb: [1, 2", r"2:\d+: This is no YAML"),
        ("a: 1\nb: 2\na: 3", "3:1: The key 'a' is there twice, first at bad.yaml:1:1"),
        ("a: &x [1, *x]", "1:4: An anchor is used within what it stands for"),
        ("? [1, 2]\n: 3", "1:3: A key has to be a word"),
        ("- 1", "1:1: A study has to be a mapping"),
        ("a: !!python/object:os.system {}", "1:1: A study has no 'a'"),
    ],
)
def test_files_that_are_no_study(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"bad.yaml:{said}"):
        study_of(text, "bad.yaml", "smoke")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title:", "§titel:", "A study has no 'titel'. Did you mean 'title'"),
        ("name: small\ntitle: A study of two networks", "§name: small", "'title' is missing"),
        ("train: 300", "§trian: 300", "There is no key 'trian' here. Did you mean 'train'"),
        ("train: 300", "train: §-3", "data.digits.train: Input should be greater than or equal to"),
        ("train: 300", "train: §2.5", "valid integer; got 2.5"),
        ("train: 300", "train: §'300'", "valid integer; got '300'"),
        ("data: digits\n", "data: §digit\n", "There is no data 'digit'. Did you mean 'digits'"),
        ("network: ce,", "network: §cee,", "There is no network 'cee'. Did you mean 'ce'"),
        ("[fgsm, pgd]", "[fgsm, §pdg]", "There is no attack 'pdg'. Did you mean 'pgd'"),
        ("guards: [ce]", "guards: [§xe]", "There is no guard 'xe'. There are: ce."),
        ("guards: [ce]", "guards: [§x*]", "No guard fits 'x*'"),
        ("guards: [ce]", "guards: §[]", "evaluations.main.guards: there has to be at least one"),
        ("guards: [ce]", "§guards: [ce]\n    suite: quick", "give one"),
        ("eps: [0.1, 8/255]", "eps: §[]", "at least one"),
        ("guards: [ce]\n    attacks: {oblivious: [fgsm, pgd], white-box: [pgd]}", "§guards: [ce]",
         "give one"),
        ("guards: [ce]\n    attacks: {obl", "§guards: [ce]\n    attacks: {transfer: [pgd], obl",
         "A transfer is made from substitutes"),
        ("[0.1, 8/255]", "[0.1]\n    substitutes: {a: §{}}", "name one of them"),
        ("{network: ce,", "{network: ce, fpr: §1.0,", "less than 1; got 1.0"),
        ("{network: ce,", "{network: ce, rule: §some,", "'any' or 'all'; got 'some'"),
        ("detectors: {density: KDensity}", "detectors: {}, corrector: LogitSVM", "§"),
        ("  smoke:", "  §smok:", "There is no scale 'smok'. Did you mean 'smoke'"),
        ("  cpu:\n", "  cpu: {networks: {§c: {}}}\n", "networks has no 'c'. Did you mean 'ce'"),
        ("  cpu:\n", "  cpu: {§title: x}\n", "A scale changes entries and defaults, not 'title'"),
        ("defaults:\n", "defaults:\n  §network: {}\n", "There are no defaults for 'network'"),
        ("  ce: {}", "  ce: §3", "networks: ce has to be a mapping"),
        ("  ce: {}", "  ce: {objective: §[]}", "networks.ce.objective: there has to be at least"),
        ("  ce: {}", "  ce: {objective: [§{settings: {}}]}", "'kind' is missing"),
        ("  ce: {}", "  ce: {§objektive: X}", "There is no key 'objektive' here. Did you mean"),
        ("density: KDensity", "density: {kind: KDensity, §bandwidth: 1}", "no key 'bandwidth'"),
        ("scales:", "§other: 1\nscales:", "A study has no 'other'"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_says_where_and_what(old: str, new: str, said: str) -> None:
    assert old in BASE
    if said == "§":
        text, place, said = BASE.replace(old, new, 1), "", "A corrector answers what detectors flag"
    else:
        text, place = marked(BASE.replace(old, new, 1))
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    assert str(caught.value).startswith(f"small.yaml:{place}")
    assert said in str(caught.value)


def test_all_errors_of_a_file_are_told_in_its_order() -> None:
    text = BASE.replace("train: 300", "train: 0").replace("network: ce,", "fpr: 2.0,")
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in lines] == ["4", "17", "17"]


def test_an_error_points_into_the_file_after_grids_and_defaults() -> None:
    text = BASE.replace(
        "  ce: {}",
        '  "ce-{n}": {grid: {n: [1, two]}, seed: "{n}"}\n  ce: {}',
    )
    # the value that is wrong stands in the grid
    with pytest.raises(
        ConfigurationError, match=r"small.yaml:11:28: networks.ce-two.seed: .*'two'"
    ):
        read(text)


def test_guards_can_be_named_by_a_pattern() -> None:
    text = BASE.replace(
        "guards:\n  ce:",
        'guards:\n  "g-{n}": {grid: {n: [2, 1]}, network: ce, parameters: {n: "{n}"}}\n  ce:',
        1,
    ).replace("guards: [ce]", 'guards: [ce, "g-*", g-1]')
    study = read(text)
    assert study.evaluations["main"].guards == ("ce", "g-2", "g-1")
    assert study.guards["g-2"].parameters == {"n": 2}


def test_a_scale_has_to_be_declared() -> None:
    with pytest.raises(
        ConfigurationError, match=r"23:1: .*no scale 'paper'. There are: smoke, cpu"
    ):
        read(BASE, "paper")
    with pytest.raises(ConfigurationError, match="Did you mean 'smoke'"):
        read(BASE, "smoek")


@pytest.mark.parametrize("name", names())
def test_the_librarys_studies_can_be_read(name: str) -> None:
    study = load_study(name, "smoke")
    assert study.name == name
    assert study.evaluations


def test_files_and_names_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(BASE)
    assert load_study(path, "cpu") == load_study(str(path), "cpu")
    with pytest.raises(ConfigurationError, match=r"There is no file .*missing.yaml.*digits"):
        load_study(tmp_path / "missing.yaml")
    with pytest.raises(ConfigurationError, match=r"no study 'digit'.* Did you mean 'digits'"):
        load_study("digit")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="cannot be read as text"):
        load_study(path)


def test_a_study_is_read_without_torch() -> None:
    code = (
        "import sys; from notsure.studies.spec import load_study; load_study('digits');"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_study_of_ones_own_making_is_checked_as_well() -> None:
    content = {**read(BASE).model_dump(), "guards": {"g": {"network": "c"}}, "evaluations": {}}
    study = Study.model_validate(content)
    with pytest.raises(ConfigurationError, match=r"study 'small', guards.g.network: .*'c'.*'ce'"):
        study.check_names()


def test_the_study_in_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[1] / "docs" / "studies.md").read_text(encoding="utf-8")
    text = page.split("```yaml\n")[1].split("```")[0]
    assert study_of(text, "mine.yaml", "smoke").networks["plain"].recipe["epochs"] == 2
    assert study_of(text, "mine.yaml", "cpu").networks["plain"].recipe["epochs"] == 5
