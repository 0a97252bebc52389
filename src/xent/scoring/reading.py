"""How a table is read as predictions: which column is what, decided from names, said in words.

Nothing is guessed where two readings are possible: that is an error which names the flag that
settles it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any, TypedDict

from xent.errors import OptionError, TableError
from xent.scoring.columns import find_column, listed, match_prefix, no_rows_error
from xent.scoring.duckdb import Table
from xent.scoring.prediction_sql import Scale

__all__ = [
    "SAID",
    "Columns",
    "Reading",
    "Spelling",
    "Wishes",
    "found_columns",
    "is_id_name",
    "is_probability_name",
    "known_weights",
    "label_column",
    "read_roles",
    "scale_by_name",
    "texts",
    "wished_columns",
]

_LABELS = frozenset(
    {"label", "labels", "y_true", "true_label", "target", "class", "truth", "y", "actual"}
    | {"ground_truth", "gold"}
)
_IDS = ("id", "row_id", "example_id", "sample_id", "uid", "uuid", "key")
_WEIGHTS = frozenset({"sample_weight", "sample_weights", "weight", "weights"})
_BINARY = frozenset({"p", "prob", "proba", "probability", "y_prob", "y_proba", "p_hat"})
# Columns that say by their names that they hold no probabilities, but what leads to them.
_OTHER_SCALES = {
    Scale.LOGITS: (
        re.compile(r"(?:y_|pred_)?logits?[_.\- :]", re.IGNORECASE),
        frozenset({"logit", "logits"}),
    ),
    Scale.LOG: (
        re.compile(r"(?:y_|pred_)?log_?(?:p|probs?|probas?|probability)[_.\- :]", re.IGNORECASE),
        frozenset(
            {"logp", "log_p", "logprob", "log_prob", "logprobs", "log_probs", "log_proba"}
            | {"log_probability", "log_probabilities"}
        ),
    ),
}
_PREFIX = re.compile(r"(?:y_|pred_)?(?:p|prob|probs|proba|probability)[_.\- :]", re.IGNORECASE)
# What two values usually mean, (negative, positive), compared without regard to case.
_PAIRS = (
    ("0", "1"), ("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"),
    ("neg", "pos"), ("negative", "positive"), ("-1", "1"),
)  # fmt: skip
_WHOLE = re.compile(r"-?\d+(\.0)?")
_SAMPLE_ROWS = 10_000
_MOST_LABELS = 10_000


class Columns(TypedDict, total=False):
    """Which column is what: the keywords of `xent.scoring.score` and its siblings.

    What is left out is found by the names of the columns, and `Score.reading` says how.

    Attributes
    ----------
    label
        The column of the true label; found by itself when it is called ``label``, ``y_true`` ….
    probabilities
        The columns of the probabilities: ``"p_*"``, or names with commas between. One column may
        hold lists, or the probability of one of two labels.
    positive
        With one column: the label value that it is the probability of.
    classes
        The label values in the order of the columns, or of the entries of lists.
    scale
        What the numbers are: ``"probability"``, ``"log"`` (natural logarithms of probabilities) or
        ``"logits"`` (their softmax is the probabilities; of one column, its logistic function).
        Columns called ``logit_*`` or ``logprob_*`` are that without being told.
    long
        The column of the class, in a table with a row for each class of each prediction: the rows
        of one value of `id` are one prediction.
    multi_label
        The columns of several truths, each a yes or no: ``"y_*"``, or names with commas between.
        Each is a question of its own, with the probability of the same name.
    soft_labels
        In the place of `label`: the columns of the probabilities that the truth is each class
        (``"y_*"``, or names with commas between), a column of lists of them, or of two classes that
        of the second.
    weights
        The column of sampling weights; ``"none"`` for none. A row of weight 0 counts for nothing,
        but must be a valid row all the same.
    counts
        In the place of `weights`: the column that says how many equal rows a row stands for.
    id
        The column that names a row in the report; ``"none"`` for row numbers.
    """

    label: str | None
    probabilities: str | None
    positive: str | None
    classes: Sequence[str] | None
    scale: str | None
    long: str | None
    multi_label: str | None
    soft_labels: str | None
    weights: str | None
    counts: str | None
    id: str | None


@dataclass(frozen=True)
class Wishes:
    """What the caller said about the columns; None leaves it to the names."""

    label: str | None = None
    probabilities: str | None = None
    positive: str | None = None
    classes: Sequence[str] | None = None
    scale: str | None = None
    long: str | None = None
    multi_label: str | None = None
    soft_labels: str | None = None
    weights: str | None = None
    counts: str | None = None
    id: str | None = None

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Wishes:
        """Return what keywords say, refusing what no keyword can be.

        Raises
        ------
        OptionError
            If a keyword is not text, or `classes` no list; or both weights and counts are named.
        TypeError
            If there is no such keyword.
        """
        unknown = sorted(set(columns) - set(cls.__dataclass_fields__))
        if unknown:
            raise TypeError(
                f"there is no keyword {unknown[0]!r}: the columns are told by "
                f"{', '.join(cls.__dataclass_fields__)}"
            )
        for name in set(columns) - {"classes"}:
            value = columns[name]
            if value is not None and not isinstance(value, str):
                what = (
                    "label values are compared as text, '1' for 1."
                    if name == "positive"
                    else "give the column's name."
                )
                raise OptionError(f"{name} must be a text: got {value!r}. Hint: {what}")
        if columns.get("scale") not in {None, *(scale.value for scale in Scale)}:
            raise OptionError(
                f"--scale must be {', '.join(scale.value for scale in Scale)}: got "
                f"{columns['scale']!r}. Hint: it says what the numbers of a prediction are."
            )
        if None not in {columns.get("weights"), columns.get("counts")}:
            raise OptionError(
                "--weights and --counts must not be given together: got "
                f"{columns['weights']!r} and {columns['counts']!r}. Hint: weights say how much a "
                "row of a sample counts, counts how many equal rows it stands for."
            )
        named = texts(
            "classes",
            columns.get("classes"),
            "label values in the order of the columns",
            "['cat', 'dog']",
        )
        return cls(**{**columns, "classes": named})


def texts(name: str, value: Any, what: str, example: str) -> list[str] | None:
    """Return an option that is a list of values, as text, or None.

    Raises
    ------
    OptionError
        If it is no list.
    """
    if value is None:
        return None
    if isinstance(value, (str, Set, Mapping)) or not isinstance(value, Iterable):
        raise OptionError(
            f"{name} must be a list of {what}: got {value!r}. Hint: {name}={example}."
        )
    return [str(item) for item in value]


class Spelling(Enum):
    """How a label's text in the table becomes the text of a class."""

    AS_IS = "as it is"
    LOWER = "in lower case"  # True in the table, true in the header
    WHOLE = "without .0"  # 1.0 in a column that a missing value once turned to floats
    BIT = "as 0 and 1"  # True in the table, 1 in the header

    def of(self, text: str) -> str:
        """Return the class of a label.

        Examples
        --------
        >>> Spelling.WHOLE.of("-1.0"), Spelling.BIT.of("True"), Spelling.AS_IS.of("1.0")
        ('-1', '1', '1.0')
        """
        if self is Spelling.AS_IS:
            return text
        if self is Spelling.WHOLE:
            return text.removesuffix(".0") if _WHOLE.fullmatch(text) else text
        lower = text.lower()
        return lower if self is Spelling.LOWER else {"false": "0", "true": "1"}.get(lower, text)

    def sql(self, text: str) -> str:
        """Return the same as SQL."""
        return {
            Spelling.AS_IS: text,
            Spelling.LOWER: f"lower({text})",
            Spelling.WHOLE: f"regexp_replace({text}, '^(-?[0-9]+)\\.0$', '\\1')",
            Spelling.BIT: f"CASE lower({text}) WHEN 'false' THEN '0' WHEN 'true' THEN '1' "
            f"ELSE {text} END",
        }[self]


@dataclass(frozen=True)
class Reading:
    """A table read as predictions.

    Attributes
    ----------
    label
        The column of the truth.
    layout
        ``"wide"`` (a column per class), ``"list"`` (one column of lists) or ``"binary"`` (one
        column: the probability of the second class).
    columns
        The columns of the probabilities, in the order of the classes.
    classes
        The label values, as text; for a list of unknown length with class indices, empty.
    weights, id
        Columns, or None.
    counts
        Whether the weights say how many equal rows a row stands for.
    scale
        What the numbers in `columns` are.
    soft
        The columns of soft labels, in the order of the classes, or one of lists; empty for labels,
        and then `label` is none.
    spelling
        How a label's text becomes the text of a class.
    words
        The reading in sentences, each with the flag to say otherwise.
    """

    label: int
    layout: str
    columns: tuple[int, ...]
    classes: tuple[str, ...]
    weights: int | None
    id: int | None
    spelling: Spelling
    words: tuple[str, ...]
    counts: bool = False
    scale: Scale = Scale.PROBABILITY
    soft: tuple[int, ...] = ()


def read_roles(table: Table, wishes: Wishes) -> Reading:
    """Decide which column is what.

    Raises
    ------
    TableError
        If a column is missing, or more than one reading is possible.
    OptionError
        If the wishes contradict each other.
    """
    label = -1 if wishes.soft_labels is not None else label_column(table, wishes)
    counts = None if wishes.counts is None else find_column(table, wishes.counts, "counts")
    soft, truths = _soft_columns(table, wishes)
    weights = counts
    if weights is None:
        weights = known_weights(table, wishes, {label, *soft})
    id_column = _id_column(table, wishes, label)
    taken = {column for column in (label, weights, id_column, *soft) if column is not None}
    layout, columns, stars, scale = _probability_columns(
        table, wishes, taken, None if soft else label
    )
    if soft:
        soft, classes, how = _soft_classes(table, wishes, layout, columns, stars, soft, truths)
        spelling = Spelling.AS_IS
    else:
        classes, spelling, how = _classes(table, wishes, label, layout, columns, stars)
    names = table.names
    shown = listed([names[column] for column in columns])
    said = {
        "wide": f"{SAID[scale]}: {shown}{how}",
        "list": f"{SAID[scale]}: the lists in column {shown}{how}",
        "binary": f"{SAID[scale]}: column {shown}{how}",
    }[layout]
    flags = ["--probabilities", *(["--positive"] if layout == "binary" else [])]
    flags += [] if scale is Scale.PROBABILITY else ["--scale"]
    words = [
        f"soft labels: {listed([names[column] for column in soft])} (else --soft-labels)"
        if soft
        else f"label: column {names[label]!r} (else --label)",
        f"{said} (else {', '.join(flags)})",
        f"each row counts as often as column {names[weights]!r} says (else --counts)"
        if counts is not None and weights is not None
        else "weights: none, each row counts once (else --weights)"
        if weights is None
        else f"weights: column {names[weights]!r} (else --weights, or --weights none)",
        "rows are named by their number (else --id)"
        if id_column is None
        else f"rows are named by column {names[id_column]!r} (else --id, or --id none)",
    ]
    return Reading(
        label,
        layout,
        columns,
        classes,
        weights,
        id_column,
        spelling,
        tuple(words),
        counts=counts is not None,
        scale=scale,
        soft=soft,
    )


SAID = {  # what numbers are called
    Scale.PROBABILITY: "probabilities",
    Scale.LOG: "logarithms of probabilities",
    Scale.LOGITS: "logits",
}
_TRUTHS = {Spelling.LOWER: {"false", "true"}, Spelling.BIT: {"0", "1"}}


# ---- one column for one role ------------------------------------------------------------------


def label_column(table: Table, wishes: Wishes) -> int:
    """Return the column of the truth.

    Raises
    ------
    TableError
        If there is none, or more than one.
    """
    if wishes.label is not None:
        return find_column(table, wishes.label, "label")
    found = [i for i, name in enumerate(table.names) if name.strip().lower() in _LABELS]
    if len(found) == 1:
        return found[0]
    if found:
        raise TableError(
            f"the label column of {str(table.path)!r} must be plain: got "
            f"{listed([table.names[i] for i in found])}. Hint: choose one with --label COLUMN."
        )
    raise TableError(
        f"{str(table.path)!r} must have a column with the true label: got columns "
        f"{listed(table.names, 20)}. Hint: say which with --label COLUMN; 'label', 'y_true' and "
        "'target' are found by themselves."
    )


def _named_or_known(
    table: Table, wish: str | None, flag: str, known: frozenset[str], taken: set[int]
) -> int | None:
    if wish is not None:
        if wish == "none" and wish not in table.names:
            return None
        return find_column(table, wish, flag)
    found = [
        i for i, name in enumerate(table.names) if name.strip().lower() in known and i not in taken
    ]
    if len(found) > 1:
        raise TableError(
            f"the {flag} column of {str(table.path)!r} must be plain: got "
            f"{listed([table.names[i] for i in found])}. "
            f"Hint: choose one with --{flag} COLUMN, or --{flag} none."
        )
    return found[0] if found else None


def known_weights(table: Table, wishes: Wishes, taken: set[int]) -> int | None:
    """Return the column of sampling weights, if there is one."""
    return _named_or_known(table, wishes.weights, "weights", _WEIGHTS, taken)


def _id_column(table: Table, wishes: Wishes, label: int) -> int | None:
    if wishes.id is not None:
        return _named_or_known(table, wishes.id, "id", frozenset(), set())
    # A class may be called id: what the caller, or its own name, calls a probability is one.
    wished = [] if wishes.probabilities is None else wishes.probabilities.split(",")
    lower = [name.strip().lower() for name in table.names]
    for known in _IDS:
        if known in lower:
            place = lower.index(known)
            if place != label and table.names[place] not in wished:
                return place
    found = [
        i
        for i, name in enumerate(lower)
        if name.endswith("_id")
        and i != label
        and not _PREFIX.match(table.names[i])
        and not any(fnmatchcase(table.names[i], pattern) for pattern in wished)
    ]
    return found[0] if len(found) == 1 else None


def is_id_name(name: str) -> bool:
    """Return whether a column of this name usually tells one row from every other."""
    lower = name.strip().lower()
    return lower in _IDS or lower.endswith("_id")


# ---- the columns of the probabilities -----------------------------------------------------------


def _probability_columns(
    table: Table, wishes: Wishes, taken: set[int], label: int | None
) -> tuple[str, tuple[int, ...], dict[int, str], Scale]:
    """Return the layout, the columns, what a single ``*`` stood for in each, and the scale."""
    free = [i for i in range(len(table.names)) if i not in taken]
    first = table.first_texts()
    if first is None:
        raise no_rows_error(table)
    lists = [i for i in free if table.kinds[i] == "list" or (first.get(i) or "").startswith("[")]
    wished = None if wishes.scale is None else Scale(wishes.scale)
    if wishes.probabilities is not None:
        columns, stars = wished_columns(table, wishes.probabilities, free)
        layout = "wide" if len(columns) > 1 else "list" if columns[0] in lists else "binary"
        return layout, columns, stars, wished or scale_by_name(table, columns)
    # Probabilities are nearer than what leads to them, unless that is asked for.
    order = [Scale.PROBABILITY, *_OTHER_SCALES]
    for scale in order if wished is None else sorted(order, key=lambda scale: scale is not wished):
        found = found_columns(table, free, lists, scale, label)
        if len(found) == 1:
            layout, columns, _ = found[0]
            prefix = _names_of(scale)[0]
            stars = {
                i: table.names[i][match.end() :]
                for i in columns
                if (match := prefix.match(table.names[i])) is not None
            }
            return layout, columns, stars if len(stars) == len(columns) else {}, wished or scale
        if found:
            raise TableError(
                f"the probabilities in {str(table.path)!r} must be plain: got "
                f"{listed([what for _, _, what in found])}. "
                f"Hint: choose with --probabilities '{found[0][2]}'."
            )
    raise TableError(
        f"{str(table.path)!r} must have columns with probabilities: got columns "
        f"{listed(table.names, 20)}. Hint: say which with --probabilities 'p_*' or a,b,c; columns "
        "named p_<label> or logit_<label>, a list column or one column 'p' are found by themselves."
    )


def _names_of(scale: Scale) -> tuple[re.Pattern[str], frozenset[str]]:
    """Return how the columns of a class, and a column alone, are called by those who have them."""
    return (_PREFIX, _BINARY) if scale is Scale.PROBABILITY else _OTHER_SCALES[scale]


def scale_by_name(table: Table, columns: Sequence[int]) -> Scale:
    """Return the scale that columns are called by; probabilities where that says nothing."""
    for scale, (prefix, known) in _OTHER_SCALES.items():
        names = [table.names[i].strip() for i in columns]
        if all(prefix.match(name) or name.lower() in known for name in names):
            return scale
    return Scale.PROBABILITY


def found_columns(
    table: Table, free: list[int], lists: list[int], scale: Scale, label: int | None
) -> list[tuple[str, tuple[int, ...], str]]:
    """Return what may be the predictions: layout, columns, and what to call them.

    Columns that are called as the values of `label` are found too, if that is a column.
    """
    start, known = _names_of(scale)
    groups: dict[str, list[int]] = {}
    for i in free:
        prefix = start.match(table.names[i])
        if prefix and i not in lists and table.names[i][prefix.end() :]:
            groups.setdefault(prefix.group(), []).append(i)
    wide = {prefix: columns for prefix, columns in groups.items() if len(columns) > 1}
    found: list[tuple[str, tuple[int, ...], str]] = [
        ("wide", tuple(columns), f"{prefix}*") for prefix, columns in wide.items()
    ]
    found += [("list", (i,), table.names[i]) for i in lists if scale_by_name(table, (i,)) is scale]
    if not found:
        grouped = [i for columns in groups.values() for i in columns]
        named = [i for i in free if table.names[i].strip().lower() in known and i not in lists]
        found = [("binary", (i,), table.names[i]) for i in dict.fromkeys(grouped + named)]
    if not found and label is not None and scale is Scale.PROBABILITY:
        values = table.distinct(label, limit=_MOST_LABELS, within=_SAMPLE_ROWS)
        after = [i for i in free if table.names[i] in values]
        if values and len(after) == len(values) and len(after) > 1:
            found = [("wide", tuple(after), "the label values")]
    return found


def is_probability_name(name: str) -> bool:
    """Return whether a column of this name is taken for the prediction of a class."""
    return any(_names_of(scale)[0].match(name) for scale in Scale)


def wished_columns(
    table: Table, wish: str, free: Sequence[int], flag: str = "probabilities"
) -> tuple[tuple[int, ...], dict[int, str]]:
    """Return the columns that a comma-separated list of names and patterns stands for.

    Raises
    ------
    TableError
        If a name or pattern stands for none.
    """
    columns: list[int] = []
    stars: dict[int, str] = {}
    for pattern in [wish] if wish in table.names else wish.split(","):
        if pattern in table.names:
            hits = [table.names.index(pattern)]
        else:
            hits = [i for i in free if fnmatchcase(table.names[i], pattern)]
        if not hits:
            raise TableError(
                f"--{flag} must name columns of {str(table.path)!r}: got {pattern!r}, but "
                f"the columns are {listed(table.names, 20)}. Hint: 'p_*' means every column whose "
                "name starts with p_; quote it, or the shell expands it."
            )
        head, star, tail = pattern.partition("*")
        for i in hits:
            if i not in columns:
                columns.append(i)
            if star and not re.search(r"[*?\[]", head + tail):
                stars[i] = table.names[i][len(head) : len(table.names[i]) - len(tail) or None]
    return tuple(columns), stars if len(stars) == len(columns) else {}


def _soft_columns(table: Table, wishes: Wishes) -> tuple[tuple[int, ...], dict[int, str]]:
    """Return the columns of soft labels, and what a ``*`` stood for in each."""
    if wishes.soft_labels is None:
        return (), {}
    if wishes.label is not None:
        raise OptionError(
            f"--label and --soft-labels must not be given together: got {wishes.label!r} and "
            f"{wishes.soft_labels!r}. Hint: soft labels are probabilities of the labels."
        )
    free = range(len(table.names))
    return wished_columns(table, wishes.soft_labels, free, "soft-labels")


def _soft_classes(
    table: Table,
    wishes: Wishes,
    layout: str,
    columns: tuple[int, ...],
    stars: dict[int, str],
    soft: tuple[int, ...],
    truths: dict[int, str],
) -> tuple[tuple[int, ...], tuple[str, ...], str]:
    """Return soft labels in the order of the probabilities, the classes, and how in words."""
    named = None if wishes.classes is None else tuple(wishes.classes)
    if layout == "binary":
        if len(soft) != 1:
            raise TableError(
                f"one column of probabilities must go with one of soft labels: got {len(soft)}. "
                "Hint: --soft-labels COLUMN, the probability that the truth is the second class."
            )
        positive = wishes.positive or "1"
        classes = named or ("0" if positive == "1" else f"not {positive}", positive)
        return soft, classes, f", P({classes[1]!r})"
    if layout == "list" or len(soft) == 1:
        if layout == "list" and len(soft) == 1:
            return soft, named or (), ", entry 0 first, as those of the soft labels"
        names = [truths.get(column, table.names[column]) for column in soft]
        if layout != "list":
            names = [stars.get(column, table.names[column]) for column in columns]
        classes = named or tuple(names)
        return soft, classes, f" for the labels {listed(list(classes))}"
    if stars and truths:
        place = {text: column for column, text in truths.items()}
        if set(place) != set(stars.values()) or len(soft) != len(columns):
            raise TableError(
                f"each soft label must have a probability of its name: got {listed(list(place))} "
                f"and the probabilities of {listed(list(stars.values()))}. Hint: --soft-labels "
                "'y_*' --probabilities 'p_*' names both, or a,b,c and d,e,f in one order."
            )
        soft = tuple(place[stars[column]] for column in columns)
    elif len(soft) != len(columns):
        raise TableError(
            f"there must be as many soft labels as probabilities: got {len(soft)} and "
            f"{len(columns)}. Hint: --soft-labels and --probabilities name both, in one order."
        )
    classes = named or tuple(
        stars.get(column, truths.get(truth, table.names[column]))
        for column, truth in zip(columns, soft, strict=True)
    )
    return soft, classes, f" for the labels {listed(list(classes))}"


# ---- the classes -----------------------------------------------------------------------------


def _classes(
    table: Table,
    wishes: Wishes,
    label: int,
    layout: str,
    columns: tuple[int, ...],
    stars: dict[int, str],
) -> tuple[tuple[str, ...], Spelling, str]:
    """Return the classes as text, the spelling of labels, and how that was found in words."""
    if wishes.positive is not None and layout != "binary":
        raise OptionError(
            f"--positive must go with one column of probabilities: got {len(columns)} columns or "
            "lists. Hint: --probabilities COLUMN chooses the one column."
        )
    if wishes.classes is not None:
        return _named_classes(wishes, layout, columns)
    if layout == "list":
        return (), Spelling.AS_IS, ", entry 0 first, for the labels 0, 1, … (names: --classes)"
    if layout == "binary":
        return _binary_classes(table, wishes, label, columns[0], stars)
    values = table.distinct(label, limit=_MOST_LABELS, within=_SAMPLE_ROWS)
    names = [table.names[i] for i in columns]
    candidates = [names] + ([[stars[i] for i in columns]] if stars else [])
    if values:
        candidates += [
            [name[len(prefix) :] for name in names]
            for prefix in match_prefix(names, values)
            if all(name.startswith(prefix) and name != prefix for name in names)
        ]
    plain = [classes for classes in candidates if len(set(classes)) == len(classes)]
    for classes in plain:
        if set(values) <= set(classes):
            return tuple(classes), Spelling.AS_IS, f" for the labels {listed(classes)}"
    if stars and len(set(stars.values())) < len(stars):
        twice = next(text for text in stars.values() if list(stars.values()).count(text) > 1)
        raise TableError(
            f"each column of probabilities must be that of another class: got {twice!r} twice in "
            f"{listed(names)}. Hint: choose one set of columns, such as --probabilities 'p_*'."
        )
    for classes in plain:
        lower = [name.lower() for name in classes]
        for spelling, header in (
            (Spelling.LOWER, lower),
            (Spelling.BIT, classes),
            (Spelling.WHOLE, classes),
        ):
            if spelling is not Spelling.WHOLE and set(header) != _TRUTHS[spelling]:
                continue
            if values and {spelling.of(value) for value in values} <= set(header):
                return tuple(header), spelling, f" for the labels {listed(header)}"
    # The reading that explains most labels; the first label without a column is then an error
    # that can say the row.
    best = max(plain, key=lambda classes: len(set(values) & set(classes)))
    if not set(values) & set(best):
        raise TableError(
            f"each label must have a column of probabilities that is named after it: got labels "
            f"{listed(values)} and columns {listed(names)}. Hint: --classes a,b,c gives the label "
            "values in the order of the columns."
        )
    return tuple(best), Spelling.AS_IS, f" for the labels {listed(best)}"


def _named_classes(
    wishes: Wishes, layout: str, columns: tuple[int, ...]
) -> tuple[tuple[str, ...], Spelling, str]:
    classes = tuple(str(name) for name in wishes.classes or ())
    count = {"wide": len(columns), "binary": 2}.get(layout)
    if len(set(classes)) != len(classes) or len(classes) < 2 or count not in {None, len(classes)}:
        wanted = "at least two" if count is None else str(count)
        raise OptionError(
            f"--classes must name {wanted} different label values: got {listed(classes)}. "
            "Hint: one per probability, in their order; for one column the negative, then the "
            "positive."
        )
    if wishes.positive is not None and wishes.positive != classes[1]:
        raise OptionError(
            f"--positive must be the second of --classes: got {wishes.positive!r} and "
            f"{listed(classes)}. Hint: one of the two is enough."
        )
    how = f", P({classes[1]!r})" if layout == "binary" else f" for the labels {listed(classes)}"
    return classes, Spelling.AS_IS, how


def _binary_classes(
    table: Table, wishes: Wishes, label: int, column: int, stars: dict[int, str]
) -> tuple[tuple[str, ...], Spelling, str]:
    """Settle which label value the one column is the probability of."""
    values = table.distinct(label, limit=4)
    name = table.names[column]
    spelling = Spelling.AS_IS
    if any(v.endswith(".0") for v in values) and all(_WHOLE.fullmatch(v) for v in values):
        spelling = Spelling.WHOLE
        values = sorted({spelling.of(v) for v in values})
    if len(values) > 2:
        raise TableError(
            f"one column of probabilities, {name!r}, must go with two label values: got "
            f"{listed(values[:3])}{' …' if len(values) > 3 else ''}. Hint: --probabilities 'p_*' "
            "names a column per class; --label names another label."
        )
    if len({v.lower() for v in values}) < len(values):
        raise TableError(
            f"the two label values must differ in more than case: got {listed(values)}. "
            "Hint: spell them alike, or --classes negative,positive if they are two."
        )
    pair = next((p for p in _PAIRS if {v.lower() for v in values} <= set(p)), None)
    by_lower = {v.lower(): v for v in values}
    wish = None if wishes.positive is None else spelling.of(wishes.positive)
    named = stars.get(column, "")
    if wish is None and named.lower() in by_lower:
        wish = named
    if wish is None and pair is not None and values:
        wish = pair[0] if named.lower() in {p[0] for p in _PAIRS} else pair[1]
    positive = wish if wish in values else by_lower.get((wish or "").lower())
    if positive is None and len(values) == 1 and wish is not None:
        # A table in which no row is positive. Nothing in it contradicts a misspelt --positive, so
        # something must confirm it: the column's name, or the value's usual opposite.
        both = {values[0].lower(), wish.lower()}
        if wish.lower() == named.lower() or any(set(p) == both for p in _PAIRS):
            positive = wish
    if positive is None:
        got = "no hint which" if wishes.positive is None else repr(wishes.positive)
        raise TableError(
            f"column {name!r} must be the probability of one of the label values {listed(values)}: "
            f"got {got}. Hint: --positive VALUE says which"
            + (
                "; where only one of two occurs, --classes negative,positive names both."
                if len(values) == 1
                else "."
            )
        )
    others = [v for v in values if v != positive]
    negative = others[0] if others else f"not {positive}"
    if not others and pair is not None and positive.lower() in pair:
        negative = pair[1 - pair.index(positive.lower())]
    return (negative, positive), spelling, f", P(label = {positive!r})"
