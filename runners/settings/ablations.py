"""Tables of world models to compare, configs/ablation/<table>.yaml: the settings of their rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from runners.errors import UserError
from runners.settings.base import Key
from runners.settings.build import Value, Values
from runners.settings.checks import check
from runners.settings.config import Config
from runners.settings.diffusion import DiffusionSettings, TrunkHeadSettings
from runners.settings.diffusion_checks import tokens_of
from runners.settings.faults import Faults, nearest
from runners.settings.load import load_unchecked, merge
from runners.settings.presets import GROUPS, flatten, folders, names, read_tree
from runners.settings.transformers import DynamicsSettings, TransformerSettings

FOLDER = "ablation"
AT: Key = ("agent", "dynamics")
STEPS, LAYERS = (*AT, "sampler", "steps"), (*AT, "layers")
ENTRIES = ("description", "note", "charts", "rows")
DREAMS = ("sampler", "guidance")
"""Settings of a dynamics that count only when it dreams."""
UNUSED: Values = {("agent", "behaviour", "gradient", "kind"): Value("reinforce", "table")}
"""No policy learns here, so that not all dynamics need to say what it asks of them."""


@dataclass(frozen=True)
class Table:
    """A table file. rows: what each changes of the settings, the later layers above the first."""

    name: str
    description: str
    note: str
    charts: tuple[str, ...]
    rows: Mapping[str, Sequence[Values]]


@dataclass(frozen=True)
class Row:
    """One world model of a table."""

    name: str
    config: Config


@dataclass(frozen=True)
class Plan:
    """The rows that are compared, and a sentence for each that is not."""

    rows: list[Row]
    left_out: list[str]

    def trainings(self) -> list[list[Row]]:
        """The rows in groups of the same training, each group where its first row stands."""
        found: list[tuple[object, list[Row]]] = []
        for row in self.rows:
            what = _learned(row.config)
            group = next((group for other, group in found if other == what), None)
            if group is None:
                found.append((what, [row]))
            else:
                group.append(row)
        return [group for _, group in found]


def tables() -> list[str]:
    """The names of all tables."""
    return names(FOLDER)


def read_table(name: str) -> Table:
    """The table of that name, in ./configs or what was installed. Raises UserError."""
    faults = Faults()
    known = tables()
    if name not in known:
        text = f"table={name}: there is no configs/{FOLDER}/{name}.yaml (there are: "
        faults.add(f"{text}{', '.join(known)})", nearest(name, known))
        faults.raise_any()
    file = next(at for folder in folders() if (at := folder / FOLDER / f"{name}.yaml").is_file())
    tree = dict(read_tree(file, faults))
    faults.raise_any()
    where = f"configs/{FOLDER}/{file.name}"
    rows: dict[str, list[Values]] = {}
    given = tree.pop("rows", {})
    if not isinstance(given, Mapping) or not given:
        faults.add(f"{where}: it needs 'rows', each a name with settings of agent.dynamics")
        given = {}
    for row, inner in given.items():
        rows[row] = _layers(row, inner, rows, faults, where)
    charts = _charts(tree.pop("charts", []), rows, faults, where)
    description, note = (str(tree.pop(key, "")) for key in ("description", "note"))
    for key in tree:
        faults.add(f"{where}: there is no entry {key!r}", nearest(key, ENTRIES))
    faults.raise_any()
    return Table(name, description, note, charts, rows)


def _charts(given: object, rows: Collection[str], faults: Faults, where: str) -> tuple[str, ...]:
    if not isinstance(given, list):
        faults.add(f"{where}: 'charts' should be a list of rows, not {given!r}")
        return ()
    for row in map(str, given):
        if row not in rows:
            faults.add(f"{where}: 'charts' names no row: {row!r}", nearest(row, rows))
    return tuple(map(str, given))


def _layers(
    row: str, tree: object, above: Mapping[str, Sequence[Values]], faults: Faults, where: str
) -> list[Values]:
    if not isinstance(tree, Mapping):
        faults.add(f"{where}: row {row!r} should hold settings of agent.dynamics")
        return []
    own = dict(tree)
    like = own.pop("like", None)
    if like is not None and like not in above:
        faults.add(f"{where}: row {row!r} is like {like!r}, which is no row above it")
    values = {(*AT, *key): Value(raw, f"row {row}") for key, raw in flatten(own)}
    return [*above.get(str(like), []), values]


def plan(table: Table, chosen: Sequence[str], words: Sequence[str]) -> Plan:
    """The settings of the rows chosen, all where none is, over those of a command line.

    Raises UserError for a row that is not in the table, or with wrong settings, and for a setting
    of the command line that would not count, as rows say otherwise.
    """
    faults = Faults()
    for name in chosen:
        if name not in table.rows:
            hint = nearest(name, table.rows) or "see: tokendream list tables"
            faults.add(f"rows: the table {table.name} has no row {name!r}", hint)
    if len({*chosen}) < len(chosen):
        faults.add(f"rows=[{','.join(chosen)}] names one of them twice")
    _refuse_overruled(table, chosen or [*table.rows], words, faults)
    faults.raise_any()
    base = load_unchecked(words)
    if not isinstance(base.agent.dynamics, TransformerSettings):
        raise UserError(f"agent.dynamics.kind={base.agent.dynamics.kind} is no transformer")
    made = Plan([], [])
    for name in chosen or table.rows:
        found = _row(words, table.rows[name], base)
        if isinstance(found, Config):
            _refuse_contradictions(name, found, base)
        if isinstance(found, str):
            made.left_out.append(f"{name}: {found}")
        elif same := next((row.name for row in made.rows if row.config == found), None):
            made.left_out.append(f"{name}: it is {same}")
        else:
            made.rows.append(Row(name, found))
    if not made.rows:
        raise UserError("\n  ".join(["no row is left", *made.left_out]))
    return made


def _refuse_overruled(
    table: Table, chosen: Sequence[str], words: Sequence[str], faults: Faults
) -> None:
    """A fault for each word about what a chosen row sets, or a part of it, to something else."""
    for word in words:
        name, _, text = word.partition("=")
        key = tuple(name.split("."))
        if name in GROUPS:
            continue
        rows = [row for row in chosen if _overrules(table.rows.get(row, ()), key, text)]
        if rows:
            more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
            faults.add(
                f"{word}: the rows of table {table.name} say this ({', '.join(rows[:3])}{more}); "
                f"write a table of your own in ./configs/{FOLDER}"
            )


def _overrules(layers: Sequence[Values], key: Key, text: str) -> bool:
    said = {other: str(value.raw) for layer in layers for other, value in layer.items()}
    return any(
        value != text if other == key else other[: len(key)] == key or key[: len(other)] == other
        for other, value in said.items()
    )


def _row(words: Sequence[str], layers: Sequence[Values], base: Config) -> Config | str:
    """The settings of a row, or why it is left out."""
    tokens = tokens_of(base.agent.tokenizer)[1]
    counted = [UNUSED, *(_counted(layer, tokens) for layer in layers)]
    said = merge(counted)
    steps = str(said[STEPS].raw) if STEPS in said else "1"
    if steps.isdecimal() and int(steps) > tokens:
        return f"more than {tokens} tokens"
    if LAYERS in said:
        return load_unchecked(words, counted)
    # One layer, which every backbone can have, and then what is left.
    config = load_unchecked(words, [*counted, {LAYERS: Value("1", "table")}])
    head = _head(config.agent.dynamics)
    trunk = _depth(base.agent.dynamics) - head
    if trunk < 1:
        return f"a head of {head} layers leaves none of {trunk + head}"
    dynamics = config.agent.dynamics.model_copy(update={"layers": trunk})
    agent = config.agent.model_copy(update={"dynamics": dynamics})
    return config.model_copy(update={"agent": agent})


def _refuse_contradictions(name: str, config: Config, base: Config) -> None:
    """Raises UserError, naming the row but where the command line alone is at fault."""
    faults, before = Faults(), [*check(base)]
    for text in check(config):
        faults.add(text if text in before else f"row {name}: {text}")
    faults.raise_any()


def _counted(layer: Values, tokens: int) -> Values:
    """The same with numbers for the words that count tokens."""
    counts = {"all": tokens, "root": round(sqrt(tokens))}
    return {
        key: Value(str(counts.get(str(value.raw), value.raw)), value.origin)
        if key == STEPS
        else value
        for key, value in layer.items()
    }


def _depth(dynamics: DynamicsSettings) -> int:
    """All layers, those of a head among them."""
    assert isinstance(dynamics, TransformerSettings)
    return dynamics.layers + _head(dynamics)


def _head(dynamics: DynamicsSettings) -> int:
    if isinstance(dynamics, DiffusionSettings) and isinstance(dynamics.backbone, TrunkHeadSettings):
        return dynamics.backbone.head
    return 0


def _learned(config: Config) -> object:
    """What decides how a world model is trained."""
    settings = config.agent.dynamics.model_dump()
    return {key: value for key, value in settings.items() if key not in DREAMS}


def tables_text() -> str:
    """Every table with its description and its rows; of a wrong one, what is wrong with it."""
    return "\n\n".join("\n".join(_lines(name)) for name in tables())


def _lines(name: str) -> Iterator[str]:
    try:
        table = read_table(name)
    except UserError as error:
        yield f"{name} (table={name})  {'; '.join(map(str.strip, str(error).splitlines()))}"
        return
    yield f"{table.name} (table={table.name})  {table.description}"
    for row, layers in table.rows.items():
        changes = ", ".join(
            f"{'.'.join(key[len(AT) :])}={value.raw}" for key, value in layers[-1].items()
        )
        above = [other for other, those in table.rows.items() if those == layers[:-1]]
        like = f"like {above[0]}, " if above else ""
        yield f"  {row:22} {like}{changes}"
