"""Every formula, table, number and figure of the five texts that xent was made from, executed.

docs/sources.md lists what each text says, the call that gives it, and the test here. Exact values
come from mpmath at 50 digits, from integers or from closed forms; where a text rounds or errs, the
test states what is exact and shows that the printed value is something else.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import mpmath
import numpy as np
import pytest

import xent
from xent.errors import DistributionError

MP = mpmath.mp.clone()
MP.dps = 50
EXACT = 1e-15  # relative: a few units in the last place of float64

GRADES = [0.7, 0.2, 0.1]  # A, pass, fail
STUDENT_C = [0.2, 0.5, 0.3]
STUDENT_D = [0.2, 0.2, 0.6]
FAIL = 2  # both failed
PAGE = Path(__file__).parents[1] / "docs" / "sources.md"


def assert_exact(actual, exact, relative=EXACT):
    """Compare float64 results with mpmath numbers, one by one."""
    actual, exact = np.asarray(actual), np.asarray(exact, dtype=object)
    assert actual.dtype == np.float64
    assert actual.shape == exact.shape
    for index in np.ndindex(exact.shape):
        error = abs(MP.mpf(float(actual[index])) - exact[index])
        assert error <= relative * abs(exact[index]), (index, actual[index], exact[index])


def assert_single_summed_and_averaged(loss, predicted, truth, single):
    assert_exact(loss(predicted, truth, reduction="none"), single)
    assert_exact(loss(predicted, truth, reduction="sum"), sum(single))
    assert_exact(loss(predicted, truth), sum(single) / len(single))


def printed(value, decimals):
    return f"{round(float(value), decimals) + 0.0:.{decimals}f}"  # −0 is 0


def uniform(m):
    return np.full(m, 1.0 / m)


def exact_cross_entropy(p, q):
    return -MP.fsum(x * MP.log(y) for x, y in zip(p, q, strict=True) if x)


def exact_divergence(p, q):
    return MP.fsum(x * MP.log(MP.mpf(x) / y) for x, y in zip(p, q, strict=True) if x)


def exact_softmax(z):
    e = [MP.exp(x) for x in z]
    return [x / MP.fsum(e) for x in e]


def exact_sigmoid(z):
    return [1 / (1 + MP.exp(-MP.mpf(x))) for x in z]


def hessian_of_cross_entropy(z, target):
    """Build the Hessian row by row from its products with the unit vectors."""
    n = len(z)
    rows, targets = np.tile(z, (n, 1)), np.full(n, target)
    return xent.softmax_cross_entropy_hessian_vector_product(
        rows, targets, np.eye(n), reduction="sum"
    )


def curvature_of_squared_error(z, targets, directions, link, step=2.0**-14):
    """Take central differences of the gradient along the directions."""
    up, down = (
        xent.squared_error_value_and_grad(z + h * directions, targets, link=link, reduction="sum")[
            1
        ]
        for h in (step, -step)
    )
    return (up - down) / (2.0 * step)


def test_the_checker_of_this_file_refuses_a_wrong_digit_a_wrong_shape_and_float32():
    assert_exact(np.log([2.0]), [MP.log(2)])
    for wrong in (np.log([2.0]) * (1 + 4e-15), np.log(2.0), np.log([2.0]).astype(np.float32)):
        with pytest.raises(AssertionError):
            assert_exact(wrong, [MP.log(2)])


# ---- text 1: cross-entropy as entropy of two distributions, and the losses written out ---------


def test_cross_entropy_is_the_expected_surprise_of_the_prediction_under_the_truth_in_bits():
    exact = exact_cross_entropy(GRADES, STUDENT_C)
    value = xent.cross_entropy(GRADES, STUDENT_C, unit="bits")
    assert_exact(value, exact / MP.log(2))
    assert_exact(np.dot(GRADES, xent.surprisal(STUDENT_C, unit="bits")), exact / MP.log(2))
    assert_exact(xent.cross_entropy(GRADES, STUDENT_C), exact)  # lg and ln: two units


def test_cross_entropy_equals_the_entropy_for_a_perfect_prediction_and_exceeds_it_otherwise():
    assert xent.cross_entropy(GRADES, GRADES) == xent.entropy(GRADES)
    near = [[0.7, 0.21, 0.09], [0.69, 0.2, 0.11], STUDENT_C, STUDENT_D]
    assert np.all(xent.cross_entropy(GRADES, near) > xent.entropy(GRADES) + 1e-4)


def test_the_binary_loss_of_many_samples_needs_the_bracket_that_the_text_leaves_out():
    predicted, truth = [0.6, 0.3, 0.9], [1, 0, 0]
    exact = [-MP.log(0.6), -MP.log1p(-0.3), -MP.log1p(-0.9)]
    assert_single_summed_and_averaged(xent.binary_cross_entropy, predicted, truth, exact)
    # As printed the minus sign stops at the plus: the loss falls as a zero is predicted worse.
    single = xent.binary_cross_entropy(predicted, truth, reduction="none")
    as_printed = single[0] - single[1] - single[2]
    assert_exact(as_printed, exact[0] - exact[1] - exact[2])
    assert as_printed < 0


def test_the_binary_loss_is_the_loss_over_two_classes():
    yes = np.arange(1, 64) / 64  # 1 − yes is exact
    for y in (0, 1):
        truth, exact = np.full(63, y), [-MP.log(x if y else 1 - x) for x in yes]
        assert_single_summed_and_averaged(xent.binary_cross_entropy, yes, truth, exact)
        two = np.stack([1 - yes, yes], axis=-1)
        assert_single_summed_and_averaged(xent.categorical_cross_entropy, two, truth, exact)


def test_the_loss_from_scores_takes_the_softmax_of_each_sample_s_own_scores():
    scores, truth = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]]), [0, 2]
    exact = [-MP.log(exact_softmax(z)[y]) for z, y in zip(scores, truth, strict=True)]
    one_hot = np.eye(3)[truth]
    assert_single_summed_and_averaged(xent.softmax_cross_entropy, scores, one_hot, exact)
    # The printed formula drops the sample's index from the scores: that is another number.
    shared = xent.softmax_cross_entropy(np.tile(scores[0], (2, 1)), one_hot, reduction="sum")
    assert abs(shared - sum(exact)) > 1


# ---- text 2: entropy, cross-entropy, divergence and confidence ---------------------------------


def test_a_one_hot_truth_reduces_cross_entropy_to_minus_the_logarithm_of_one_probability():
    # Class 1 is the second one: classes are counted from 0 in the text as in xent.
    exact = -MP.log(STUDENT_C[1])
    assert_exact(xent.cross_entropy([0.0, 1.0, 0.0], STUDENT_C), exact)
    assert_exact(xent.categorical_cross_entropy(STUDENT_C, 1), exact)
    assert_exact(xent.surprisal(STUDENT_C)[1], exact)
    assert abs(xent.surprisal(STUDENT_C)[0] - exact) > 0.5


def test_the_less_likely_an_event_was_held_to_be_the_more_it_tells_and_costs_without_bound():
    confidence = np.array([1.0, 1 - 2.0**-53, 0.9, 0.5, 0.1, 1e-8, 1e-300, 5e-324, 0.0])
    rows = np.stack([1 - confidence, confidence], axis=-1)
    loss = xent.categorical_cross_entropy(rows, np.ones(9, dtype=int), reduction="none")
    for penalty in (xent.surprisal(confidence), loss):
        assert_exact(penalty[:-1], [-MP.log(q) for q in confidence[:-1]])
        assert np.all(np.diff(penalty) > 0)
        assert (penalty[0], penalty[-1]) == (0, math.inf)


def test_each_halving_of_a_probability_costs_one_more_bit_however_small_it_is():
    halvings = xent.surprisal(0.75 * 2.0 ** -np.arange(60.0), unit="bits")
    assert_exact(halvings, [k - MP.log(0.75, 2) for k in range(60)])


def test_of_two_right_answers_the_more_confident_one_has_the_smaller_loss():
    answers = np.log([[0.4, 0.3, 0.3], [0.9, 0.05, 0.05]])
    s = xent.softmax_statistics(answers, [0, 0])
    assert np.all(s.correct)
    assert_exact(s.nll, [-MP.log(0.4), -MP.log(0.9)])
    assert s.nll[1] < s.nll[0]


def test_minimising_cross_entropy_minimises_divergence_because_they_differ_by_a_constant():
    models = np.random.default_rng(2).dirichlet([1, 1, 1], size=200)
    gap = xent.cross_entropy(GRADES, models) - xent.kl_divergence(GRADES, models)
    assert np.allclose(gap, float(xent.entropy(GRADES)), rtol=1e-14, atol=0)
    least, gradient = xent.softmax_cross_entropy_value_and_grad(np.log(GRADES), GRADES)
    assert_exact(least, exact_cross_entropy(GRADES, GRADES))
    assert np.all(np.abs(gradient) < EXACT)
    assert np.all(xent.cross_entropy(GRADES, models) > least)


def test_summed_losses_are_not_their_average_but_the_number_of_samples_times_it():
    predicted, truth = [STUDENT_C, STUDENT_D, GRADES], [FAIL, FAIL, 0]
    exact = [-MP.log(0.3), -MP.log(0.6), -MP.log(0.7)]
    for target in (truth, np.eye(3)[truth]):
        assert_single_summed_and_averaged(xent.categorical_cross_entropy, predicted, target, exact)


def test_the_jacobian_of_softmax_comes_out_of_gradients_and_of_hessian_products():
    z = np.array([1.0, -0.5, 2.0, 0.25])
    jacobian = [
        [MP.diff(lambda x, i=i, j=j: exact_softmax([*z[:j], x, *z[j + 1 :]])[i], z[j])
         for j in range(4)]
        for i in range(4)
    ]  # fmt: skip
    nll, gradient = xent.softmax_cross_entropy_value_and_grad(
        np.tile(z, (4, 1)), np.eye(4), reduction="none"
    )
    # ∂p_i/∂z_j = −p_i ∂(−log p_i)/∂z_j
    assert_exact(-np.exp(-nll)[:, None] * gradient, jacobian)
    for target in range(4):  # the curvature is the Jacobian, whatever the target
        assert_exact(hessian_of_cross_entropy(z, target), jacobian)


def test_the_gradient_by_the_scores_is_softmax_minus_target():
    z = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    for target in (np.eye(3)[[0, 2]], np.array([GRADES, STUDENT_C])):
        gradient = xent.softmax_cross_entropy_value_and_grad(z, target, reduction="none")[1]
        exact = [
            [p - MP.mpf(t) for p, t in zip(exact_softmax(row), ts, strict=True)]
            for row, ts in zip(z, target, strict=True)
        ]
        assert_exact(gradient, exact)


# ---- text 3: Shannon information, from a coin to blocks of ten outcomes ------------------------


def test_a_fair_coin_or_an_even_choice_of_two_has_one_bit_which_is_log_2_nats():
    assert_exact(xent.entropy([0.5, 0.5], unit="bits"), MP.mpf(1))
    assert_exact(xent.entropy([0.5, 0.5]), MP.log(2))


def test_one_winner_of_eight_teams_has_three_bits():
    assert_exact(xent.entropy([0.125] * 8, unit="bits"), MP.mpf(3))
    assert_exact(xent.perplexity([0.125] * 8), MP.mpf(8))


def test_a_probability_of_a_quarter_for_each_of_eight_teams_is_no_distribution():
    with pytest.raises(DistributionError, match=r"must sum to 1 .* got 2\.0"):
        xent.entropy([0.25] * 8)
    assert_exact(xent.entropy([0.25] * 8, unit="bits", normalize=True), MP.mpf(3))
    assert_exact(xent.entropy([0.25] * 4, unit="bits"), MP.mpf(2))


def test_equally_likely_outcomes_have_log_2_m_bits_for_powers_of_two_and_all_other_m():
    for m in (2, 3, 7, 8, 10, 100, 1000, 1024, 32_000):
        assert_exact(xent.entropy(uniform(m), unit="bits"), MP.log(m, 2))


def test_ten_outcomes_alone_need_four_bits_and_leave_six_of_sixteen_states_unused():
    assert math.ceil(xent.entropy(uniform(10), unit="bits")) == 4
    assert 2**4 - round(float(xent.perplexity(uniform(10)))) == 6
    used = [0.1] * 10 + [0.0] * 6
    assert_exact(xent.cross_entropy(used, uniform(16), unit="bits"), MP.mpf(4))
    assert_exact(xent.kl_divergence(used, uniform(16), unit="bits"), MP.log(1.6, 2))


def test_triples_of_ten_outcomes_need_ten_bits_and_leave_24_of_1024_states_unused():
    assert_exact(xent.entropy(uniform(10**3), unit="bits"), 3 * MP.log(10, 2))
    bits = math.ceil(xent.entropy(uniform(10**3), unit="bits"))
    assert (bits, 2**bits) == (10, 1024)
    assert 2**bits - round(float(xent.perplexity(uniform(10**3)))) == 24
    used = np.append(uniform(1000), np.zeros(24))
    per_outcome = xent.cross_entropy(used, uniform(1024), unit="bits") / 3
    assert_exact(per_outcome, MP.mpf(10) / 3)
    assert xent.entropy(uniform(10), unit="bits") < per_outcome < 4


def test_a_triple_is_three_outcomes_because_three_bits_do_not_hold_even_one():
    assert_exact(xent.perplexity(uniform(2**3)), MP.mpf(8))
    assert xent.entropy(uniform(10), unit="bits") > 3


def test_blocks_of_g_outcomes_need_b_bits_each_and_b_over_g_falls_towards_log_2_of_10():
    entropy = float(xent.entropy(uniform(10), unit="bits"))
    assert_exact(entropy, MP.log(10, 2))
    assert printed(entropy, 3) == "3.322"
    for g in range(1, 7):  # the block's own distribution: 10^G outcomes
        assert_exact(xent.entropy(uniform(10**g), unit="bits"), g * MP.log(10, 2))
    best = math.inf
    for g in range(1, 400):
        b = math.ceil(g * entropy)
        assert b == (10**g - 1).bit_length()  # the least B with 2^B ≥ 10^G, in integers
        assert 2**b != 10**g  # never met exactly: log2 10 is irrational
        assert entropy < b / g < entropy + 1 / g
        best = min(best, b / g)
    assert best - entropy < 1e-4


def test_log_2_m_is_not_what_an_outcome_needs_when_the_outcomes_are_not_equally_likely():
    needs = xent.surprisal(GRADES, unit="bits")
    assert_exact(needs, [-MP.log(p, 2) for p in GRADES])
    assert np.all(np.abs(needs - math.log2(3)) > 0.7)
    assert_exact(xent.surprisal(uniform(3), unit="bits"), [MP.log(3, 2)] * 3)
    assert xent.entropy(GRADES, unit="bits") < xent.entropy(uniform(3), unit="bits")


def test_shannon_entropy_is_the_expected_number_of_bits_of_an_outcome():
    exact = exact_cross_entropy(GRADES, GRADES) / MP.log(2)
    assert_exact(xent.entropy(GRADES, unit="bits"), exact)
    assert_exact(np.dot(GRADES, xent.surprisal(GRADES, unit="bits")), exact)


# ---- text 4: the wrong dictionary, likelihood, PyTorch ----------------------------------------


def test_the_dictionary_of_one_file_costs_cross_entropy_on_another_and_divergence_is_the_excess():
    file_a, file_b = [4, 2, 1, 1], [1, 1, 3, 3]  # how often each symbol occurs
    lengths = xent.surprisal(np.divide(file_a, 8), unit="bits")  # Huffman's for these counts
    assert_exact(lengths, [1, 2, 3, 3])
    cost = xent.cross_entropy(file_b, file_a, unit="bits", normalize=True)
    assert_exact(cost, MP.mpf(21) / 8)
    assert_exact(np.dot(file_b, lengths) / 8, MP.mpf(21) / 8)
    excess = xent.kl_divergence(file_b, file_a, unit="bits", normalize=True)
    own = xent.entropy(file_b, unit="bits", normalize=True)
    assert_exact(own, MP.mpf(3) - MP.mpf(3) / 4 * MP.log(3, 2))
    assert_exact(excess, MP.mpf(3) / 4 * MP.log(3, 2) - MP.mpf(3) / 8)


def test_a_huffman_dictionary_costs_the_cross_entropy_of_its_own_powers_of_two():
    # Huffman on 0.7, 0.2, 0.1 gives 1, 2 and 2 bits: more than the entropy, less than a bit more.
    implied = [0.5, 0.25, 0.25]
    huffman = xent.cross_entropy(GRADES, implied, unit="bits")
    assert_exact(huffman, MP.mpf("1.3"))
    assert 0.1 < huffman - xent.entropy(GRADES, unit="bits") < 1


def test_negative_log_likelihood_with_an_indicator_is_cross_entropy_with_a_one_hot_truth():
    logs = np.log([STUDENT_C, STUDENT_D])
    exact = [-MP.mpf(logs[0, 2]), -MP.mpf(logs[1, 0])]
    assert_exact(xent.nll(logs, [2, 0], reduction="none"), exact)
    assert_exact(xent.nll(logs, np.eye(3)[[2, 0]], reduction="none"), exact)
    direct = xent.categorical_cross_entropy([STUDENT_C, STUDENT_D], [2, 0], reduction="none")
    assert_exact(direct, exact)


def test_pytorch_follows_the_definition_on_the_softmax_of_logits_and_takes_the_mean():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]], dtype=torch.float64)
    truth = torch.tensor([0, 2])
    exact = [-MP.log(exact_softmax(z)[y]) for z, y in zip(logits.tolist(), (0, 2), strict=True)]
    assert_exact(xent.softmax_cross_entropy(logits, truth), sum(exact) / 2)
    assert_exact(functional.cross_entropy(logits, truth), sum(exact) / 2, 1e-14)
    assert_exact(xent.softmax_cross_entropy(logits, truth, reduction="sum"), sum(exact))
    # Probabilities are taken for logits and go through a softmax once more: another number.
    p = torch.tensor([STUDENT_C], dtype=torch.float64)
    fail = torch.tensor([FAIL])
    assert_exact(xent.categorical_cross_entropy(p, fail), -MP.log(0.3))
    assert_exact(functional.cross_entropy(p, fail), -MP.log(exact_softmax(STUDENT_C)[FAIL]), 1e-14)
    assert_exact(functional.cross_entropy(p.log(), fail), -MP.log(0.3), 1e-14)


# ---- text 5: a chapter on the loss; equations 1–12, table 3-2, figure 3-10, students A–D -------


def test_equation_1_cross_entropy_has_two_forms_that_agree():
    other_form = MP.fsum(p * MP.log(1 / MP.mpf(q)) for p, q in zip(GRADES, STUDENT_D, strict=True))
    for exact in (other_form, exact_cross_entropy(GRADES, STUDENT_D)):
        assert_exact(xent.cross_entropy(GRADES, STUDENT_D), exact)


def test_cross_entropy_is_no_distance_it_is_not_0_at_equality_and_not_symmetric():
    assert_exact(xent.cross_entropy(GRADES, GRADES), exact_cross_entropy(GRADES, GRADES))
    there, back = xent.cross_entropy([GRADES, STUDENT_C], [STUDENT_C, GRADES])
    assert abs(there - back) > 0.05


def test_equation_2_and_table_3_2_information_of_the_three_grades():
    information = xent.surprisal(GRADES)
    assert_exact(information, [-MP.log(p) for p in GRADES])
    assert [printed(i, 2) for i in information] == ["0.36", "1.61", "2.30"]


def test_equation_3_entropy_of_the_grades_is_0_8018_and_0_804_comes_of_rounded_summands():
    entropy = xent.entropy(GRADES)
    assert_exact(entropy, exact_cross_entropy(GRADES, GRADES))
    assert printed(entropy, 4) == "0.8018"
    assert printed(entropy, 3) == "0.802"
    assert printed(np.dot(GRADES, np.round(xent.surprisal(GRADES), 2)), 3) == "0.804"
    assert printed(xent.perplexity(GRADES), 4) == "2.2296"


def test_equation_4_divergence_is_the_expected_logarithm_of_the_ratio_over_n_outcomes():
    for p, q in ((GRADES, STUDENT_C), (STUDENT_C, STUDENT_D), (uniform(10), uniform(10))):
        assert_exact(xent.kl_divergence(p, q), exact_divergence(p, q))


def test_divergence_decreases_to_0_as_the_prediction_approaches_the_truth():
    along = np.linspace(0, 1, 33)[:, None]
    divergence = xent.kl_divergence(GRADES, along * GRADES + (1 - along) * STUDENT_C)
    assert np.all(np.diff(divergence) < 0)
    assert divergence[-1] == 0


def test_divergence_is_no_distance_it_is_not_symmetric_and_a_detour_can_be_shorter():
    p, q, r = [0.5, 0.5], [0.25, 0.75], [0.125, 0.875]
    assert_exact(xent.kl_divergence(p, q), exact_divergence(p, q))
    assert_exact(xent.kl_divergence(q, p), exact_divergence(q, p))
    assert abs(xent.kl_divergence(p, q) - xent.kl_divergence(q, p)) > 0.01
    detour = xent.kl_divergence(p, q) + xent.kl_divergence(q, r)
    assert xent.kl_divergence(p, r) > detour + 0.1


def test_divergence_is_not_a_mean_square_error():
    one, other = [0.6, 0.3, 0.1], [0.7, 0.1, 0.2]  # the same squares away from the grades
    squares = xent.squared_error([one, other], [GRADES, GRADES], reduction="none")
    assert_exact(squares, [MP.mpf("0.02")] * 2)
    divergences = xent.kl_divergence(GRADES, [one, other])
    assert_exact(divergences, [exact_divergence(GRADES, q) for q in (one, other)])
    assert divergences[1] > 2 * divergences[0]
    assert xent.squared_error([0.0, 1.0], 0) == 2  # bounded, where the divergence is not
    assert xent.kl_divergence([1.0, 0.0], [0.0, 1.0]) == math.inf


def test_equations_5_and_6_divergence_is_minus_entropy_plus_cross_entropy():
    pairs = np.random.default_rng(5).dirichlet(np.ones(6), size=(2, 100))
    sides = xent.kl_divergence(*pairs), xent.cross_entropy(*pairs) - xent.entropy(pairs[0])
    assert np.allclose(*sides, rtol=0, atol=4e-15)
    assert_exact(sides[0], [exact_divergence(p, q) for p, q in zip(*pairs, strict=True)])


def test_equation_7_the_loss_of_one_sample_sums_over_classes():
    for truth in ([0, 0, 1], [0.0, 0.25, 0.75]):
        exact = exact_cross_entropy(truth, STUDENT_C)
        assert_exact(xent.categorical_cross_entropy(STUDENT_C, truth), exact)


def test_equation_8_the_loss_of_a_batch_sums_over_samples_and_is_m_times_their_mean():
    predicted, truth = [STUDENT_C, STUDENT_D, GRADES], [STUDENT_D, GRADES, STUDENT_C]
    exact = [exact_cross_entropy(y, a) for y, a in zip(truth, predicted, strict=True)]
    assert_single_summed_and_averaged(xent.categorical_cross_entropy, predicted, truth, exact)


def test_equations_9_and_10_the_binary_loss_of_one_sample_and_of_a_batch():
    y, a = [0.0, 1.0, 0.25], [0.125, 0.375, 0.75]
    exact = [-(t * MP.log(p) + (1 - t) * MP.log(1 - p)) for t, p in zip(y, a, strict=True)]
    assert_single_summed_and_averaged(xent.binary_cross_entropy, a, y, exact)


def test_equations_11_and_12_and_figure_3_10_the_two_binary_loss_curves():
    a = np.arange(65) / 64
    yes = xent.binary_cross_entropy(a, np.ones(65), reduction="none")
    no = xent.binary_cross_entropy(a, np.zeros(65), reduction="none")
    assert_exact(yes[1:], [-MP.log(x) for x in a[1:]])
    assert_exact(no[:-1], [-MP.log(1 - MP.mpf(x)) for x in a[:-1]])
    assert (yes[0], yes[-1]) == (math.inf, 0)
    assert (no[0], no[-1]) == (0, math.inf)
    assert np.all(np.diff(yes) < 0)
    assert np.all(np.diff(no) > 0)
    np.testing.assert_allclose(yes, no[::-1], rtol=EXACT, atol=0)  # each the other's mirror image
    assert_exact(yes[[32]] + no[[32]], [2 * MP.log(2)])  # they cross at a half


def test_students_a_and_b_have_losses_0_51_and_0_36_and_gradients_minus_0_4_and_minus_0_3():
    exact = [-MP.log(0.6), -MP.log(0.7)]
    assert_single_summed_and_averaged(xent.binary_cross_entropy, [0.6, 0.7], [1, 1], exact)
    learned = xent.binary_cross_entropy([0.6, 0.7], [1, 1], reduction="none")
    assert [printed(x, 2) for x in learned] == ["0.51", "0.36"]
    logits = np.log([0.6 / 0.4, 0.7 / 0.3])
    value, gradient = xent.sigmoid_cross_entropy_value_and_grad(logits, [1, 1], reduction="none")
    assert_exact(value, exact)
    assert_exact(gradient, [MP.mpf("-0.4"), MP.mpf("-0.3")])  # sigmoid − target


def test_students_c_and_d_have_losses_1_20_and_0_51_and_gradients_softmax_minus_target():
    predicted, truth, exact = [STUDENT_C, STUDENT_D], [FAIL, FAIL], [-MP.log(0.3), -MP.log(0.6)]
    assert_single_summed_and_averaged(xent.categorical_cross_entropy, predicted, truth, exact)
    c, d = xent.categorical_cross_entropy(predicted, truth, reduction="none")
    assert [printed(c, 1), printed(c, 2), printed(d, 2)] == ["1.2", "1.20", "0.51"]
    value, gradient = xent.softmax_cross_entropy_value_and_grad(
        np.log(predicted), truth, reduction="none"
    )
    assert_exact(value, exact)
    rows = [["0.2", "0.5", "-0.7"], ["0.2", "0.2", "-0.4"]]
    assert_exact(gradient, [[MP.mpf(g) for g in row] for row in rows])


def test_the_loss_sees_only_the_truth_s_probability_where_the_squared_error_sees_all():
    predicted, truth = [STUDENT_C, [0.5, 0.2, 0.3], [0.35, 0.35, 0.3]], [FAIL] * 3
    assert_exact(
        xent.categorical_cross_entropy(predicted, truth, reduction="none"), [-MP.log(0.3)] * 3
    )
    squares = xent.squared_error(predicted, truth, reduction="none")
    assert_exact(squares, [MP.mpf("0.78"), MP.mpf("0.78"), MP.mpf("0.735")])


def test_squared_error_is_not_convex_in_the_scores_and_cross_entropy_is():
    z, yes = np.linspace(-8, 4, 49), np.ones(49)
    sigma = exact_sigmoid(z)
    convex = xent.sigmoid_cross_entropy_hessian_vector_product(z, yes, yes, reduction="sum")
    assert_exact(convex, [s * (1 - s) for s in sigma])
    assert np.all(convex > 0)
    bent = curvature_of_squared_error(z, yes, 1.0, "sigmoid")
    exact = [float(2 * s * (1 - s) ** 2 * (3 * s - 1)) for s in sigma]
    np.testing.assert_allclose(bent, exact, rtol=1e-6, atol=1e-8)
    assert np.array_equal(bent < 0, z < -math.log(2))  # σ < 1/3: concave where it is wrong


def test_over_classes_too_only_squared_error_has_a_direction_of_negative_curvature():
    wrong = np.array([3.0, -1.0, 0.5])
    convex = np.linalg.eigvalsh(hessian_of_cross_entropy(wrong, 1))
    assert convex[1] > 0.01
    assert abs(convex[0]) < EXACT  # along (1, 1, 1): a common offset changes nothing
    bent = curvature_of_squared_error(wrong, np.ones(3, dtype=int), np.eye(3), "softmax")
    assert np.linalg.eigvalsh(bent)[0] < -0.01


def test_both_losses_are_monotone_in_one_score_so_monotonicity_is_not_what_tells_them_apart():
    z, yes = np.linspace(-30, 30, 241), np.ones(241)
    squares = xent.squared_error_value_and_grad(z, yes, link="sigmoid", reduction="none")[0]
    for loss in (xent.sigmoid_cross_entropy(z, yes, reduction="none"), squares):
        assert np.all(np.diff(loss) < 0)


def test_the_gradient_of_cross_entropy_is_a_subtraction_and_that_of_squared_error_vanishes():
    z, yes = np.array([-40.0, -3.0, 0.0, 2.0]), np.ones(4)
    sigma = exact_sigmoid(z)
    gradient = xent.sigmoid_cross_entropy_value_and_grad(z, yes, reduction="sum")[1]
    assert_exact(gradient, [s - 1 for s in sigma])
    vanishing = xent.squared_error_value_and_grad(z, yes, link="sigmoid", reduction="sum")[1]
    assert_exact(vanishing, [2 * (s - 1) * s * (1 - s) for s in sigma])
    assert gradient[0] == -1  # confident and wrong: the full gradient
    assert abs(vanishing[0]) < 1e-16  # and none: the optimum is hard to reach from here


def test_the_gradient_of_squared_error_through_a_softmax_mixes_all_classes():
    z, t = [3.0, -1.0, 0.5], [0, 1, 0]
    p = exact_softmax(z)
    value, gradient = xent.squared_error_value_and_grad(z, 1)
    assert_exact(value, MP.fsum((a - b) ** 2 for a, b in zip(p, t, strict=True)))
    mean = MP.fsum(a * (a - b) for a, b in zip(p, t, strict=True))
    assert_exact(gradient, [2 * a * (a - b - mean) for a, b in zip(p, t, strict=True)], 4e-15)


# ---- the page -----------------------------------------------------------------------------------


def test_the_page_of_sources_names_every_test_and_states_what_its_calls_give():
    rows = re.findall(r"\| `(.+)` \| (.+) \| `(test_\w+)` \|\n", PAGE.read_text("utf-8"))
    own = {name for name in globals() if name.startswith("test_")}
    about_itself = {name for name in own if "the_checker_of" in name or "the_page_of" in name}
    assert {test for _, _, test in rows} == own - about_itself
    for call, stated, _ in rows:
        value = np.ravel(eval(call, {"log": np.log, **vars(xent)}))
        numbers = stated.replace("−", "-").replace("∞", "inf").split()
        given = [printed(v, len(n.partition(".")[2])) for v, n in zip(value, numbers, strict=True)]
        assert given == numbers, call
