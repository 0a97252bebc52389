"""The traps that scores of tables are known to fall into, one test each."""

import math

import duckdb
import numpy as np
import pytest

from xent.errors import TableError, TargetError
from xent.scoring import merge, score


def table(p, y, names=None, **more):
    p = np.asarray(p)
    names = [str(k) for k in range(p.shape[1])] if names is None else names
    return {"label": y, **{f"p_{name}": p[:, k] for k, name in enumerate(names)}, **more}


def drawn(n=300, classes=3, seed=0):
    random = np.random.default_rng(seed)
    # Multiples of 1/256 are the same number in every type.
    cuts = np.sort(random.integers(1, 256, (n, classes - 1)), axis=1)
    p = np.diff(cuts, prepend=0, append=256, axis=1) / 256
    p[p == 0] = 0.0
    y = np.array([random.choice(classes, p=row) for row in p])
    return p, y


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_type_with_fewer_digits_changes_nothing(dtype):
    p, y = drawn()
    assert score(table(p.astype(dtype), y)).log_loss == score(table(p, y)).log_loss


def test_columns_may_be_in_any_order():
    p, y = drawn()
    names = np.array(["ant", "bee", "cat"])
    one = score(table(p, names[y], names))
    order = [2, 0, 1]
    other = score(table(p[:, order], names[y], names[order]))
    assert other.log_loss == pytest.approx(one.log_loss, rel=1e-15)
    assert {c.label: c.summary.n for c in other.classes} == {
        c.label: c.summary.n for c in one.classes
    }


def test_a_class_that_never_happens_changes_nothing():
    p, y = drawn()
    wider = np.column_stack([p, np.zeros(len(p))])
    assert score(table(wider, y)).log_loss == pytest.approx(score(table(p, y)).log_loss, rel=1e-15)


def test_parts_add_up_to_the_whole():
    p, y = drawn()
    parts = [score(table(p[s], y[s])) for s in (slice(0, 7), slice(7, 8), slice(8, 300))]
    whole = score(table(p, y))
    assert merge(*parts).log_loss == pytest.approx(whole.log_loss, rel=1e-15)
    assert merge(*parts).standard_error == pytest.approx(whole.standard_error, rel=1e-12)


def test_one_impossible_truth_in_a_million_is_infinite():
    p = np.tile([0.25, 0.75], (1_000_000, 1))
    p[654_321] = [0.0, 1.0]
    found = score(table(p, np.zeros(1_000_000, int)))
    assert found.log_loss == math.inf
    assert found.infinite_rows == 1
    assert found.worst[0].number == 654_322
    assert found.finite_log_loss == pytest.approx(math.log(4))


def test_a_probability_next_to_1_keeps_what_is_missing():
    sure = score(table([[1e-17, 1.0]], [0], ["0", "1"]))
    assert sure.log_loss == pytest.approx(-math.log(1e-17), rel=1e-15)
    right = score({"label": ["no"], "p": [1e-17]}, classes=["no", "yes"])
    assert right.log_loss == 1e-17


def test_a_logit_of_200_is_not_certain():
    logits = {f"logit_{k}": [z, z] for k, z in enumerate([200.0, 0.0, 0.0])}
    found = score({"label": [0, 1], **logits})
    assert found.log_loss == pytest.approx((math.log1p(2 * math.exp(-200)) + 200.0) / 2, rel=1e-15)
    assert [row.loss for row in found.worst] == pytest.approx(
        [200.0, 2 * math.exp(-200)], rel=1e-14, abs=0.0
    )


def test_rows_of_one_label():
    p, _ = drawn()
    found = score(table(p[p[:, 1] > 0], np.ones((p[:, 1] > 0).sum(), int)))
    assert math.isfinite(found.log_loss)
    assert found.base_rate_loss == 0.0
    assert found.skill is None


def test_one_row():
    found = score(table([[0.25, 0.75]], [0]))
    assert found.log_loss == pytest.approx(math.log(4))
    assert found.standard_error is None
    assert found.interval is None


def test_a_row_of_weight_0_counts_for_nothing():
    p, y = drawn()
    p[5], y[5] = [1.0, 0.0, 0.0], 2
    weight = np.ones(len(p))
    weight[5] = 0.0
    rest = np.arange(len(p)) != 5
    found = score(table(p, y, weight=weight))
    assert found.log_loss == pytest.approx(score(table(p[rest], y[rest])).log_loss, rel=1e-14)
    assert (found.rows, found.n) == (300, 299)


def test_a_gap_and_a_nan_are_both_refused(tmp_path):
    for value in ("NULL", "CAST('nan' AS DOUBLE)"):
        file = tmp_path / "t.parquet"
        duckdb.sql(
            f"COPY (SELECT * FROM (VALUES (0, 0.5, 0.5), (1, {value}, 0.5)) AS t(label, p_0, p_1)) "
            f"TO '{file}' (FORMAT parquet)"
        )
        with pytest.raises((TableError, ValueError), match="data row 2"):
            score(str(file))


def test_a_label_that_is_no_class_is_told():
    with pytest.raises(TargetError, match="got label 'cow' in data row 2"):
        score(table([[0.5, 0.5]] * 3, ["ant", "cow", "bee"], ["ant", "bee"]))


def test_a_number_and_its_text_are_one_label(tmp_path):
    p, y = drawn()
    expected = score(table(p, y)).log_loss
    assert score(table(p, y.astype(str))).log_loss == pytest.approx(expected, rel=1e-15)
    assert score(table(p, y.astype(float))).log_loss == pytest.approx(expected, rel=1e-15)


def test_every_kind_of_frame_gives_the_same_number(tmp_path):
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    pa = pytest.importorskip("pyarrow")
    p, y = drawn()
    columns = table(p, y)
    expected = score(columns).log_loss
    assert expected == pytest.approx(-np.log(p[np.arange(len(p)), y]).mean(), rel=1e-14)
    for frame in (pd.DataFrame(columns), pl.DataFrame(columns), pa.table(columns)):
        assert score(frame).log_loss == expected
    pd.DataFrame(columns).to_csv(tmp_path / "t.csv", index=False)
    pl.DataFrame(columns).write_ndjson(tmp_path / "t.jsonl")
    for name in ("t.csv", "t.jsonl"):
        assert score(tmp_path / name).log_loss == pytest.approx(expected, rel=1e-15)


def test_the_engine_is_asked_to_aggregate_and_little_leaves_it(tmp_path, monkeypatch):
    """The engine's own log holds the query; no answer of it has the size of the table."""
    p, y = drawn(150_000)
    file = tmp_path / "t.parquet"
    duckdb.register("made", table(p, y, place=np.arange(len(y)) % 50, who=np.arange(len(y)) // 3))
    duckdb.sql(f"COPY made TO '{file}' (FORMAT parquet)")
    asked, sizes, connect = [], [], duckdb.connect

    class Logged:
        """A connection that tells what it was asked, before it is closed."""

        def __init__(self, *arguments, **options):
            self.connection = connect(*arguments, **options)
            self.connection.execute("CALL enable_logging('QueryLog')")

        def __getattr__(self, name):
            return getattr(self.connection, name)

        def close(self):
            log = self.connection.execute("SELECT message FROM duckdb_logs").fetchall()
            self.connection.execute("CALL disable_logging()")
            for (sql,) in log:
                asked.append(sql)
                if sql.lstrip("( ").startswith(("SELECT", "WITH")):
                    counted = f"SELECT count(*) FROM ({sql.rstrip('; ')})"
                    sizes.append(self.connection.execute(counted).fetchone()[0])
            self.connection.close()

    monkeypatch.setattr(duckdb, "connect", Logged)
    score(str(file), by=["place"], class_wise=True, cluster="who")
    assert any("GROUPING SETS" in sql and "fsum" in sql for sql in asked)
    assert any("ORDER BY l DESC" in sql and "LIMIT 5" in sql for sql in asked)
    assert len(sizes) >= 5
    assert max(sizes) <= 100_000
