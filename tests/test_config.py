import math
import time
from dataclasses import FrozenInstanceError, field
from typing import Annotated, Literal

import pytest
from pydantic import Field

from stcr_plugin.config import from_mapping, load, nearest, read_yaml, settings
from stcr_plugin.errors import ConfigError


@settings
class Cup:
    kind: Literal["cup"] = "cup"
    height: float = 1.0


@settings
class Plate:
    kind: Literal["plate"] = "plate"
    radius: float = 1.0

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError("`radius` must be above 0")


@settings
class Table:
    name: str
    thing: Annotated[Cup | Plate, Field(discriminator="kind")] = Cup()
    seats: dict[str, Plate] = field(default_factory=dict)
    stack: tuple[Plate, ...] = ()
    spare: Plate | None = None
    legs: int | None = 4


def told(values):
    with pytest.raises(ConfigError) as caught:
        from_mapping(Table, values, "table.yaml")
    text = str(caught.value)
    assert text.startswith("table.yaml: ")
    return text


def test_values_and_defaults_become_a_frozen_object():
    table = from_mapping(Table, {"name": "t", "seats": {"north": {"radius": 2}}, "spare": {"radius": 3}}, "here")
    assert table == Table("t", seats={"north": Plate(radius=2.0)}, spare=Plate(radius=3.0))
    with pytest.raises(FrozenInstanceError):
        table.name = "other"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"nam": "t"}, "unknown key 'nam', did you mean 'name'?"),
        ({"name": "t", "thing": {"kind": "cup", "hight": 1}}, "'thing.cup.hight', did you mean 'height'?"),
        ({"name": "t", "seats": {"north": {"radios": 1}}}, "'seats.north.radios', did you mean 'radius'?"),
        ({"name": "t", "stack": [{"radius": 1}, {"radiu": 1}]}, "'stack.1.radiu', did you mean 'radius'?"),
        ({"name": "t", "spare": {"zzz": 1}}, "'spare.zzz', known are: kind, radius"),
        # Not a key of the other member of the union.
        ({"name": "t", "thing": {"kind": "plate", "height": 1}}, "'thing.plate.height', known are: kind, radius"),
    ],
)
def test_unknown_key_is_named_at_its_place_with_the_nearest(values, words):
    assert words in told(values)


def test_kind_chooses_the_member_of_a_union():
    assert from_mapping(Table, {"name": "t", "thing": {"kind": "plate", "radius": 2}}, "x").thing == Plate(radius=2.0)
    assert "'cup', 'plate'" in told({"name": "t", "thing": {"kind": "bowl"}})
    assert "kind" in told({"name": "t", "thing": {"radius": 2}})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "key 'name' is missing"),
        ({"name": 3}, "name: Input should be a valid string"),
        ({"name": "t", "legs": "many"}, "legs: "),
        ({"name": "t", "spare": {"radius": -1}}, "spare: `radius` must be above 0"),
        ({"name": "t", "seats": {"north": {"radius": 0}}}, "seats.north: `radius` must be above 0"),
        ({"name": "t", "seats": [1]}, "seats: "),
    ],
)
def test_wrong_value_is_named_at_its_place(values, words):
    text = told(values)
    assert words in text
    assert "pydantic" not in text


def test_all_problems_are_told_at_once():
    text = told({"legz": 3, "spare": {"radius": "wide"}})
    assert all(words in text for words in ("'name' is missing", "unknown key 'legz'", "spare.radius"))


# ---- files and overrides ----


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text("name: t\nlegs: 3\nthing: {kind: plate, radius: 2}\nseats:\n  north: {radius: 1}\n")
    return path


def test_file_is_read(file):
    assert load(Table, file) == Table("t", Plate(radius=2.0), {"north": Plate(radius=1.0)}, legs=3)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("legs=5", {"legs": 5}),
        ("legs=null", {"legs": None}),
        ("name=a=b", {"name": "a=b"}),
        ("thing.radius=4.5", {"thing": Plate(radius=4.5)}),
        ("seats.north.radius=7", {"seats": {"north": Plate(radius=7.0)}}),
        ("spare.radius=7", {"spare": Plate(radius=7.0)}),
        ("stack=[{radius: 2}]", {"stack": (Plate(radius=2.0),)}),
    ],
)
def test_override_is_laid_over_the_file(file, override, changed):
    whole = {"name": "t", "thing": Plate(radius=2.0), "seats": {"north": Plate(radius=1.0)}, "legs": 3}
    assert load(Table, file, [override]) == Table(**(whole | changed))


def test_later_override_wins(file):
    assert load(Table, file, ["legs=1", "legs=2"]).legs == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("legs", "an override reads key=value, got 'legs'"),
        ("legz=3", "unknown key 'legz', did you mean 'legs'"),
        ("thing.radios=3", "'thing.plate.radios', did you mean 'radius'"),
        ("legs=many", "legs: "),
        ("legs=${nowhere}", "legs: "),
        ("legs=[1", "cannot be applied"),
        ("name.deeper=1", "name"),
    ],
)
def test_bad_override_is_told_with_the_file(file, override, words):
    with pytest.raises(ConfigError) as caught:
        load(Table, file, [override])
    assert str(file) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: [t", "cannot be read as YAML"),
        (b"name: \xff\xfe", "cannot be read as YAML"),
        (b"- name\n- t\n", "expected `key: value` lines at the top, found list"),
        (b"", "expected `key: value` lines at the top, found NoneType"),
        (b"name: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        (b"1: one\nname: t\n", "1"),
    ],
)
def test_file_that_is_no_configuration_is_told(tmp_path, content, words):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(Table, path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
TRAPS = {
    "name: t\non: 1\n": "line 2: the key `on` is read as true or false by YAML; write 'on' in quotes",
    "name: {off: 1}\n": "line 1: the key `off` is read as true or false by YAML; write 'off' in quotes",
    "name: {~: 1}\n": "the key `~` is read as nothing by YAML",
    "name: on\n": "name: Input should be a valid string, and on, yes and true are read as true by YAML unless written",
    "name: 7\n": "name: Input should be a valid string, and it is read as 7 by YAML unless written in quotes",
    "name: 012\n": "line 1: 012 is read as an octal number by YAML, 10; write '012' in quotes",
    "name: 1:30\n": "line 1: 1:30 is read as a number to base 60 by YAML; write '1:30' in quotes",
    "name: 2024-01-05\n": "line 1: 2024-01-05 is read as a date by YAML; write '2024-01-05' in quotes",
    "name: 2024-13-45\n": "2024-13-45 is read as a date by YAML",
    "name: t\nname: u\n": "line 2: the key `name` is there twice; delete one of them",
    "name: 1e400\n": "1e400 is too large for a number",
    "name: 1.5e+400\n": r"1\.5e\+400 is too large for a number",
    f"name: {'9' * 5000}\n": r"999\.\.\. is too large for a number",
    BOMB: "holds over 100,000 values, its aliases written out; write it without aliases",
    "name: &a [*a]\n": "holds over 100,000 values",
    "name: " + "[" * 5000 + "]" * 5000: "its lists and mappings are nested too deeply",
    "name: " + "{a: " * 5000 + "}" * 5000: "its lists and mappings are nested too deeply",
    "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n": "a Git LFS pointer.*run `git lfs pull`",
}


@pytest.mark.parametrize("text", TRAPS, ids=[text[:20] for text in TRAPS])
def test_trap_of_yaml_is_one_line_within_a_second(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    begin = time.process_time()
    with pytest.raises(ConfigError, match=rf"bad\.yaml.*{TRAPS[text]}") as caught:
        load(Table, path)
    assert time.process_time() - begin < 1
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused_before_it_is_read(device):
    with pytest.raises(ConfigError, match=f"{device}: is a device; name a file"):
        load(Table, device)


def test_quoted_texts_that_look_like_other_values_are_texts(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text("name: '2024-13-45'\n'on': \"012\"\na: 1e-5\nb: 0\nc: 000089\nd: 0x1f\ne: 12:ab\nf: .inf\n")
    texts = {"name": "2024-13-45", "on": "012", "a": "1e-5", "c": "000089", "e": "12:ab"}
    assert read_yaml(path) == texts | {"b": 0, "d": 31, "f": math.inf}


def test_missing_file_and_folder_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        read_yaml(tmp_path)


def test_resolved_file_is_read_as_llamafactory_reads_it(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("rate: 1e-5\nname: ${run}\nrun: one\n")
    assert read_yaml(path)["rate"] == "1e-5"
    assert read_yaml(path, ["run=two"], resolve=True) == {"rate": 1e-5, "name": "two", "run": "two"}
    path.write_text("a: ${nowhere}\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: cannot be resolved: .*nowhere"):
        read_yaml(path, resolve=True)
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="found list"):
        read_yaml(path, resolve=True)
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(ConfigError, match=r"line 2: the key `a` is there twice; delete one"):
        read_yaml(path, resolve=True)


def test_nearest_names_all_where_none_is_near():
    assert nearest("hights", ["height", "width"]) == "did you mean 'height'?"
    assert nearest("zzz", ["width", "height"]) == "known are: height, width"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("name=012", "the override 'name=012', line 1: 012 is read as an octal number by YAML, 10"),
        ("name=16:9", "16:9 is read as a number to base 60"),
        ("name={on: 1}", "the key `on` is read as true or false"),
        ("name=" + "[" * 2000, "is nested too deeply"),
        ("name=0x" + "F" * 40, "is too large for a number"),
        ('name="t', "cannot be applied"),
        ("=t", "an override reads key=value, got '=t'"),
        ("many.0=5", r"the overrides \['many.0=5'\] cannot be applied"),
    ],
)
@pytest.mark.parametrize("resolve", [False, True])
def test_trap_in_an_override_is_one_line(tmp_path, override, words, resolve):
    path = tmp_path / "t.yaml"
    path.write_text("name: t\nmany: [1, 2]\n")
    with pytest.raises(ConfigError, match=words) as caught:
        read_yaml(path, [override], resolve=resolve)
    assert len(str(caught.value)) < 500


def test_a_date_is_a_text_where_omegaconf_reads_it(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("run_name: 2024-01-05\n")
    assert read_yaml(path, ["project=2024-02-06"], resolve=True) == {"run_name": "2024-01-05", "project": "2024-02-06"}


@pytest.mark.parametrize("text", ["0.0", "7", "true"])
def test_a_file_of_a_single_value_is_told_where_omegaconf_reads_it(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml: cannot be resolved: Invalid loaded object type"):
        read_yaml(path, resolve=True)
