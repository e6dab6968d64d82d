"""Law checks: their expectations against determinants and simulated paths, what they accept, what they reject.

A correct sampler fails a check at its default rate with a probability of 1e-6; there are about 60 such checks, and
seven binomial counts at 5 standard deviations. The file's false-alarm rate is below 1e-4.
"""

import math

import numpy as np
import pytest
import torch
import torchsde
from scipy import stats

from sdesig.brownian import BrownianPath
from sdesig.signature import PartialSignature, gaussian_word_covariance, levy_area, sample_partial_signature
from sdesig.testing import check_brownian_step, check_gaussian, check_moments, chen_deviation
from sdesig.testing.rows import FREQUENCIES

H_STEP = 0.3


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normals(seed, *shape):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def failing(report):
    return {name for name, z in zip(report.names, report.z_scores.tolist(), strict=True) if abs(z) > report.threshold}


def step_data(n, dim, depth, seed=1, method="legendre", h=H_STEP, **options):
    """Keyword arguments of `check_brownian_step` from our own samplers, the area drawn given the coefficients."""
    if method == "legendre":
        options["terms"] = 40
    ps = sample_partial_signature((n, dim), h, depth, generator=seeded(seed), dtype=torch.float64)
    area = levy_area(
        ps.increment, h, coefficients=ps.coefficients, method=method, generator=seeded(seed + 1000), **options
    )
    data = {"increment": ps.increment, "levy_area": area}
    if depth >= 2:
        data["space_time_area"] = ps.space_time_area
    if depth >= 3:
        data["space_time_time_area"] = ps.space_time_time_area
    return data


# --- the expectations ---


TERMS = 150


def quadratic_form(x01, x02, terms=TERMS):
    """Symmetric Q with x01 A_01 + x02 A_02 = xi^T Q xi, h = 1, xi (3, terms + 1) Legendre coefficients."""
    k = np.arange(1, terms + 1)
    series = np.diag(0.5 / np.sqrt(4 * k**2 - 1), 1)
    skew = series - series.T
    q = np.zeros((3, terms + 1, 3, terms + 1))
    for j, x in ((1, x01), (2, x02)):
        q[0, :, j, :] += x * skew / 2
        q[j, :, 0, :] += x * skew.T / 2
    return q


def characteristic_function(q, weights):
    """E[exp(i xi^T Q xi - sum_lk weights_lk xi_lk^2/2)] = det(I + diag(weights) - 2 i Q)^{-1/2}."""
    size = weights.size
    sign, log = np.linalg.slogdet(np.eye(size) + np.diag(weights.ravel()) - 2j * q.reshape(size, size))
    assert abs(sign - 1) < 1e-8  # the spectrum comes in pairs of either sign
    return math.exp(-log / 2)


@pytest.mark.parametrize("x", FREQUENCIES)
def test_characteristic_functions_equal_gaussian_determinants(x):
    """Independent of Levy's formula: the Legendre series is a quadratic form, its tail a Gaussian factor to O(n^-3)."""
    data = step_data(1000, 3, 2)
    report = check_brownian_step(H_STEP, **data)
    expected = dict(zip(report.names, report.expected.tolist(), strict=True))
    tail = math.exp(-(x**2) / (8 * (2 * TERMS + 1)))
    none = np.zeros((3, TERMS + 1))
    increments, bridge = none.copy(), none.copy()
    increments[:2, 0] = 1.0  # e^{-r}
    bridge[:2, 1] = 1.0  # e^{-q}: 6 H^2 = xi_1^2/2
    planar, joint = quadratic_form(x, 0.0), quadratic_form(x, x)
    of_bridge = planar.copy()
    of_bridge[:, 0], of_bridge[:, :, :, 0] = 0.0, 0.0
    none_determinant = characteristic_function(planar, none)
    name = f"cos({x:g} A[0,1])"
    assert expected[name] == pytest.approx(none_determinant * tail, abs=1e-6)
    assert expected[f"{name} exp(-r)"] == pytest.approx(characteristic_function(planar, increments) * tail, abs=1e-6)
    name = f"cos({x:g} B[0,1])"
    assert expected[f"{name} exp(-q)"] == pytest.approx(characteristic_function(of_bridge, bridge) * tail, abs=1e-6)
    assert expected[f"{name} exp(-r)"] == pytest.approx(characteristic_function(of_bridge, increments) * tail, abs=1e-6)
    # cos a cos b = (cos(a + b) + cos(a - b))/2, and the sum and the difference have one law.
    assert expected[f"cos({x:g} A[0,1]) cos({x:g} A[0,2])"] == pytest.approx(
        characteristic_function(joint, none) * tail**2, abs=1e-6
    )


def simulated_step(n, steps, dim, h, seed):
    """W, H, K, A of n random walks of `steps` steps from their definitions, by the midpoint rule."""
    generator = seeded(seed)
    w = torch.zeros(n, dim, dtype=torch.float64)
    mean, moment, integral = torch.zeros_like(w), torch.zeros_like(w), w.new_zeros(n, dim, dim)
    for k in range(steps):
        dw = math.sqrt(h / steps) * torch.randn(n, dim, generator=generator, dtype=torch.float64)
        middle, time = w + dw / 2, (k + 0.5) / steps
        integral += middle.unsqueeze(2) * dw.unsqueeze(1)
        mean += middle / steps
        moment += (0.5 - time) * middle / steps
        w = w + dw
    # int_0^1 (1/2 - u) (W_u - u W) du with int_0^1 (1/2 - u) u du = -1/12
    return w, mean - w / 2, moment + w / 12, (integral - integral.mT) / 2


def test_accepts_simulated_paths():
    """Every expectation, unbiased up to 1/(4 steps) in Var A: at n = 30,000 less than half a standard error."""
    w, h_area, k_area, area = simulated_step(30_000, 800, 3, 2.5, seed=5)
    report = check_brownian_step(2.5, increment=w, space_time_area=h_area, space_time_time_area=k_area, levy_area=area)
    report.assert_passed()
    # What this amounts to for the expectations that are not 0.
    relative = (report.standard_errors / report.expected.abs())[report.expected != 0]
    assert relative.median() < 0.01
    assert relative.quantile(0.9) < 0.05


# --- what is accepted ---


@pytest.mark.parametrize("method, terms, dims", [
    ("fourier", 300, (2, 3)), ("milstein", 100, (2, 3)), ("wiktorsson", 10, (2, 3)), ("mronroe", 10, (2, 3)),
    ("exact2d", 4, (2,)),
])  # fmt: skip
def test_accepts_areas_given_the_increment(method, terms, dims):
    for dim in dims:
        check_brownian_step(H_STEP, **step_data(20_000, dim, 1, method=method, terms=terms)).assert_passed()


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_accepts_the_joint_law_of_legendre_areas(depth, dim):
    check_brownian_step(H_STEP, **step_data(40_000, dim, depth)).assert_passed()


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("method, z", [("davie", 6), ("foster", 6), ("four_moment", 4)])
def test_weak_methods_pass_the_weak_check_only(method, z, depth):
    """The law given H is what they get wrong; four_moment needs n = 400,000 to be told from it."""
    n = 400_000 if method == "four_moment" else 100_000
    data = step_data(n, 2, depth, method=method)
    check_brownian_step(H_STEP, weak=True, **data).assert_passed()
    report = check_brownian_step(H_STEP, false_alarm_rate=1e-2, **data)
    assert not report.passed
    assert "cos(8 B[0,1])" in report.worst
    assert report.z_scores.abs().max() > z


def test_accepts_torchsde_increments_and_space_time_areas():
    bm = torchsde.BrownianInterval(
        0.0, H_STEP, size=(40_000, 2), levy_area_approximation="space-time", entropy=1, dtype=torch.float64
    )
    w, u = bm(0.0, H_STEP, return_U=True)
    check_brownian_step(H_STEP, increment=w, space_time_area=u / H_STEP - w / 2).assert_passed()


def test_accepts_float32_and_one_step_length_per_sample():
    h = torch.rand(20_000, 1, generator=seeded(1)) + 0.1
    ps = sample_partial_signature((20_000, 2), h, 2, generator=seeded(2), dtype=torch.float32)
    area = levy_area(ps.increment, h, coefficients=ps.coefficients, method="legendre", terms=30, generator=seeded(3))
    data = {"increment": ps.increment, "space_time_area": ps.space_time_area, "levy_area": area}
    check_brownian_step(h, **data).assert_passed()
    integrals = ps.increment.unsqueeze(-1) * ps.increment.unsqueeze(-2) / 2 + area  # antisymmetric to rounding only
    data["levy_area"] = integrals - ps.increment.unsqueeze(-1) * ps.increment.unsqueeze(-2) / 2
    check_brownian_step(h, **data).assert_passed()
    assert not check_brownian_step(0.6, **data).passed


def test_accepts_gaussian_words_and_singular_covariances():
    ps = sample_partial_signature((20_000,), 0.5, 3, generator=seeded(4), dtype=torch.float64)
    words = [(1,), (1, 0), (0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    samples = torch.stack([ps.scalar_word(word) for word in words], -1)
    covariance = gaussian_word_covariance(words, 0.5)
    assert torch.linalg.matrix_rank(covariance) == 3
    report = check_gaussian(samples, covariance)
    report.assert_passed()
    assert "rms of x in the null space of C" in report.names
    check_gaussian(torch.zeros(1000, 2), torch.zeros(2, 2)).assert_passed()
    opposite = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    check_gaussian(normals(5, 1000, 1) * opposite[0], opposite).assert_passed()
    for factor in (-0.7, -1 / 3, -0.1):  # sums that vanish up to float32, by a covariance in float64
        rounded = torch.stack([ps.increment, factor * ps.increment], -1).float()
        multiple = torch.tensor([1.0, factor], dtype=torch.float64)
        check_gaussian(rounded, 0.5 * torch.outer(multiple, multiple)).assert_passed()


# --- what is rejected; sizes are such that every control fails by more than twice the threshold ---


def reject(report, *names, factor=2.0):
    """The check fails clearly, and the statistics named are among those that fail."""
    assert report.z_scores.abs().max() > factor * report.threshold, report.z_scores.abs().max()
    assert set(names) <= failing(report), failing(report)
    with pytest.raises(AssertionError, match="false-alarm rate"):
        report.assert_passed()


@pytest.mark.parametrize("method, variance", [("davie", 0.334), ("foster", 0.220)])
def test_rejects_torchsde_areas(method, variance):
    bm = torchsde.BrownianInterval(
        0.0, 1.0, size=(40_000, 2), levy_area_approximation=method, entropy=3, dtype=torch.float64
    )
    w, u, area = bm(0.0, 1.0, return_U=True, return_A=True)
    report = check_brownian_step(1.0, increment=w, space_time_area=u - w / 2, levy_area=area, weak=True)
    reject(report, "A[0,1]^2", "A[0,1]^2 exp(-r)")
    assert report.estimates[report.names.index("A[0,1]^2")].item() == pytest.approx(variance, abs=0.01)


def test_rejects_an_area_of_the_wrong_sign_given_the_space_time_area_only():
    data = step_data(10_000, 2, 2)
    data["levy_area"] = -data["levy_area"]
    expected = ["A[0,1] H[0] W[1]", "A[0,1] W[0] H[1]", "cos(2 B[0,1]) exp(-r)"]
    reject(check_brownian_step(H_STEP, **data), *expected)
    reject(check_brownian_step(H_STEP, weak=True, **data), *expected[:2])
    del data["space_time_area"]
    check_brownian_step(H_STEP, **data).assert_passed()  # (W, A) and (W, -A) have one law


@pytest.mark.parametrize("field, names", [
    ("space_time_area", ["A[0,1] H[0] W[1]", "A[0,1] K[0] H[1]"]),
    ("space_time_time_area", ["A[0,1] K[0] H[1]", "A[0,1] H[0] K[1]"]),
])  # fmt: skip
def test_rejects_a_sign_error_in_the_coefficients(field, names):
    data = step_data(20_000, 2, 3)
    data[field] = -data[field]
    reject(check_brownian_step(H_STEP, weak=True, **data), *names)


@pytest.mark.parametrize("field, name, factor", [
    ("increment", "W[0] W[0]", 1.03),
    ("space_time_area", "H[0] H[0]", math.sqrt(12 / 11.5)),
    ("space_time_time_area", "K[1] K[1]", math.sqrt(720 / 690)),
])  # fmt: skip
def test_rejects_a_wrong_variance(field, name, factor):
    """The space-time area N(0, h/11.5), for example."""
    data = step_data(200_000, 2, 3)
    del data["levy_area"]
    data[field] = factor * data[field]
    report = check_brownian_step(H_STEP, **data)
    reject(report, name, factor=1.8)
    assert all(f"{name[0]}[" in failed for failed in failing(report))


def test_rejects_an_area_drawn_from_the_increment_alone():
    data = step_data(10_000, 2, 2)
    data["levy_area"] = levy_area(data["increment"], H_STEP, method="exact2d", terms=4, generator=seeded(6))
    reject(check_brownian_step(H_STEP, weak=True, **data), "A[0,1] H[0] W[1]", "A[0,1] W[0] H[1]")
    without = {"increment": data["increment"], "levy_area": data["levy_area"]}
    check_brownian_step(H_STEP, **without).assert_passed()


def test_rejects_a_gaussian_area_of_the_right_conditional_variance():
    """Wrong in the kurtosis alone, which a weak method is allowed to be."""
    w = normals(7, 100_000, 2)
    entry = ((1 + w.square().sum(-1)) / 12).sqrt() * normals(8, 100_000)
    zero = torch.zeros_like(entry)
    area = torch.stack([zero, entry, -entry, zero], -1).unflatten(-1, (2, 2))
    check_brownian_step(1.0, increment=w, levy_area=area, weak=True).assert_passed()
    reject(check_brownian_step(1.0, increment=w, levy_area=area), "cos(8 A[0,1])", "cos(4 A[0,1]) exp(-r)")
    assert "A[0,1]^4" in failing(check_brownian_step(1.0, increment=w, levy_area=area))


def test_rejects_a_variance_of_the_area_that_ignores_the_increment():
    w = normals(9, 20_000, 2)
    entry = torch.tan(math.pi * torch.rand(20_000, generator=seeded(10), dtype=torch.float64) / 2).log() / math.pi
    zero = torch.zeros_like(entry)
    area = torch.stack([zero, entry, -entry, zero], -1).unflatten(-1, (2, 2))
    report = check_brownian_step(1.0, increment=w, levy_area=area)  # the density of A is sech(pi a): right by itself
    reject(report, "A[0,1]^2 exp(-r)", "cos(4 A[0,1]) exp(-r)")
    assert not {"A[0,1]^2", "A[0,1]^4", "cos(4 A[0,1])"} & failing(report)


def test_rejects_entries_of_the_area_that_are_right_in_pairs_of_noises_only():
    w = normals(11, 40_000, 3)
    first, second = (levy_area(w, 1.0, method="mronroe", terms=15, generator=seeded(seed)) for seed in (12, 13))
    area = first.clone()
    area[:, 0, 2], area[:, 2, 0] = second[:, 0, 2], second[:, 2, 0]
    reject(check_brownian_step(1.0, increment=w, levy_area=area, weak=True), "A[0,1] A[0,2] W[1] W[2]")
    area = first.clone()
    area[:, 1, 2], area[:, 2, 1] = -area[:, 1, 2], -area[:, 2, 1]  # not a rotation, nor a reversal
    expected = {"A[1,0] A[1,2] W[0] W[2]", "A[2,0] A[2,1] W[0] W[1]"}
    assert failing(check_brownian_step(1.0, increment=w, levy_area=area)) == expected


def test_rejects_an_area_that_is_not_antisymmetric():
    data = step_data(2000, 2, 1)
    data["levy_area"] = data["levy_area"] + 1e-9
    reject(check_brownian_step(H_STEP, **data), "max |A + A^T|")
    data = {"increment": data["increment"][:, :1], "levy_area": data["levy_area"][:, :1, :1]}
    reject(check_brownian_step(H_STEP, **data), "max |A + A^T|")


def test_rejects_samples_that_are_not_gaussian():
    x = normals(14, 20_000, 2)
    student = torch.from_numpy(stats.t(10).rvs((20_000, 2), random_state=1) / math.sqrt(10 / 8))
    reject(check_gaussian(student, torch.eye(2)), "cos(x[0]/s + x[0]/s)", "cos(x[1]/s + x[1]/s)", factor=1.5)
    sign = torch.where(normals(15, 20_000) > 0, 1.0, -1.0).to(torch.float64)
    coupled = torch.stack([x[:, 0], sign * x[:, 0]], -1)  # both N(0, 1), uncorrelated
    report = check_gaussian(coupled, torch.eye(2))
    reject(report, "cos(x[0]/s + x[1]/s)")
    assert failing(report) == {"cos(x[0]/s + x[1]/s)"}
    skewed = (x.square() - 1) / math.sqrt(2)
    reject(check_gaussian(skewed, torch.eye(2)), "sin(x[0]/s + x[0]/s)", "sin(x[1]/s + x[1]/s)")
    reject(check_gaussian(x + 0.1, torch.eye(2)), "x[0]", "x[1]")
    reject(check_gaussian(x, torch.tensor([[1.0, 0.2], [0.2, 1.0]])), "x[0] x[1]")


def test_rejects_noise_in_a_null_direction():
    x = normals(16, 5000, 1) * torch.ones(2)
    singular = torch.ones(2, 2, dtype=torch.float64)
    check_gaussian(x, singular).assert_passed()
    noisy = x + 1e-5 * normals(17, 5000, 2)
    report = check_gaussian(noisy, singular)
    reject(report, "rms of x in the null space of C")
    assert len(failing(report)) == 1
    reject(check_gaussian(torch.cat([x, 0 * x[:, :1] + 1e-9], -1), torch.block_diag(singular, torch.zeros(1, 1))))


# --- the false-alarm rate ---


def in_binomial_interval(count, repetitions, rate, exact):
    """Within 5 standard deviations; from above only if the bound of Bonferroni is not sharp."""
    spread = 5 * math.sqrt(rate * (1 - rate) * repetitions)
    return count <= rate * repetitions + spread and (not exact or count >= rate * repetitions - spread)


def assert_standard(reports):
    """Over the reports, every z-score has mean 0 and variance 1; what is antisymmetric by construction has z = 0."""
    z = torch.stack([report.z_scores for report in reports])
    z = z[:, [name != "max |A + A^T|" for name in reports[0].names]]
    assert z.mean(0).abs().max() < 5 / math.sqrt(len(z))
    excess = z.square() - 1
    assert (excess.mean(0) / (excess.std(0) / math.sqrt(len(z)))).abs().max() < 5


def test_false_alarm_rate_of_moments():
    """Independent statistics, some very skewed, at n = 1000: the Bonferroni bound is sharp, and so is the count."""
    generator, repetitions = seeded(18), 2000
    rejected = 0
    for _ in range(repetitions):
        x = torch.randn(1000, 4, generator=generator, dtype=torch.float64)
        statistics = torch.stack([x[:, 0], x[:, 1].square(), x[:, 2].exp(), -x[:, 3].pow(4)], -1)
        rejected += not check_moments(statistics, [0.0, 1.0, math.exp(0.5), -3.0], false_alarm_rate=0.05).passed
    assert in_binomial_interval(rejected, repetitions, 0.05, exact=True), rejected


@pytest.mark.parametrize("power, mean, excess", [(2, 1 / 4, 1.2), (4, 5 / 16, 6.0)])
def test_skewness_correction(power, mean, excess):
    """Moments of the Levy area at n = 1000: Student's t rejects `excess` times too often, of which little remains."""
    generator, repetitions, rate = seeded(19), 4000, 0.01
    corrected, student = 0, 0
    for _ in range(repetitions):
        uniform = torch.rand(1000, 1, generator=generator, dtype=torch.float64)
        x = (torch.tan(math.pi * uniform / 2).log() / math.pi).pow(power)
        report = check_moments(x, [mean], false_alarm_rate=rate)
        corrected += not report.passed
        student += bool(abs((x.mean() - mean) / x.std() * math.sqrt(1000)) > report.threshold)
    assert student > excess * rate * repetitions, student
    assert corrected - rate * repetitions < 0.4 * (student - rate * repetitions), (corrected, student)


def test_false_alarm_rate_of_gaussian():
    generator, repetitions = seeded(20), 2000
    factor = torch.tensor([[1.0, 0.0], [0.6, 0.5]], dtype=torch.float64)
    reports = []
    for _ in range(repetitions):
        x = torch.randn(1000, 2, generator=generator, dtype=torch.float64) @ factor.mT
        reports.append(check_gaussian(x, factor @ factor.mT, false_alarm_rate=0.05))
    assert_standard(reports)
    rejected = sum(not report.passed for report in reports)
    assert in_binomial_interval(rejected, repetitions, 0.05, exact=False), rejected
    assert rejected > 0.01 * repetitions  # not vacuous: the statistics are not that dependent


def test_false_alarm_rate_of_brownian_step():
    repetitions, n = 500, 1000
    data = step_data(repetitions * n, 2, 2, seed=21)
    reports = []
    for k in range(repetitions):
        part = {field: value[k * n : (k + 1) * n] for field, value in data.items()}
        reports.append(check_brownian_step(H_STEP, false_alarm_rate=0.05, **part))
    assert_standard(reports)
    rejected = sum(not report.passed for report in reports)
    assert in_binomial_interval(rejected, repetitions, 0.05, exact=False), rejected
    assert rejected > 0.01 * repetitions


# --- the report ---


def test_report_is_what_the_formulas_say():
    x = normals(22, 2000, 2).exp()
    report = check_moments(x, [1.6, 1.7], names=["a", "b"], false_alarm_rate=0.01)
    values = x.numpy()
    error = values.std(0) / math.sqrt(2000)
    t = (values.mean(0) - [1.6, 1.7]) / error
    g = stats.skew(values) / math.sqrt(2000)
    np.testing.assert_allclose(report.standard_errors, error, rtol=1e-12)
    np.testing.assert_allclose(report.z_scores, ((1 + g * t / 3) ** 3 - 1) / g + g / 6, rtol=1e-10)
    assert report.names == ("a", "b")
    assert report.n == 2000
    assert report.threshold == pytest.approx(stats.norm.isf(0.01 / 4))
    assert report.false_alarm_rate == 0.01


def test_report_names_what_fails():
    x = normals(23, 2000, 3)
    report = check_moments(x, [0.0, 1.0, -3.0], names=["right", "off", "far off"])
    assert not report.passed
    assert report.worst == "far off"
    with pytest.raises(AssertionError) as error:
        report.assert_passed()
    lines = str(error.value).splitlines()
    assert lines[0].startswith("2 of 3 statistics of n = 2000 samples have |z| > ")
    assert [line.split("  ")[0] for line in lines[2:]] == ["far off", "off"]
    assert check_moments(x, torch.zeros(3)).passed
    assert check_moments(x, torch.zeros(3)).assert_passed() is None


def test_constant_statistics_must_be_exact():
    x = torch.full((1000, 1), 0.1, dtype=torch.float64)
    assert check_moments(x, [0.1]).passed
    assert check_moments(x, [0.1 + 1e-16]).passed
    assert not check_moments(x, [0.1 + 1e-14]).passed
    assert check_moments(torch.zeros(1000, 1), [0.0]).passed
    assert not check_moments(torch.zeros(1000, 1), [1e-300]).passed
    assert check_moments(torch.full((1000, 1), 0.1), [0.1]).passed  # float32


GOOD = torch.zeros(1000, 2, dtype=torch.float64)


@pytest.mark.parametrize("call, error, message", [
    (lambda: check_moments(GOOD[:999], [0.0, 0.0]), ValueError, r"statistics must have shape \(n >= 1000, k >= 1\)"),
    (lambda: check_moments(GOOD[:, 0], [0.0]), ValueError, "statistics must have shape"),
    (lambda: check_moments(GOOD[:, :0], []), ValueError, "statistics must have shape"),
    (lambda: check_moments(GOOD.int(), [0.0, 0.0]), TypeError, "statistics must have a real floating-point dtype"),
    (lambda: check_moments(GOOD / 0, [0.0, 0.0]), ValueError, "statistics must be finite; got 2000 "),
    (lambda: check_moments(GOOD, [0.0]), ValueError, "expected must be 2 finite numbers"),
    (lambda: check_moments(GOOD, [0.0, math.nan]), ValueError, "expected must be 2 finite numbers"),
    (lambda: check_moments(GOOD, [0.0, 0.0], names=["a"]), ValueError, "names must be 2"),
    (lambda: check_moments(GOOD, [0.0, 0.0], false_alarm_rate=0.0), ValueError, "false_alarm_rate must be .* > 0"),
    (lambda: check_gaussian(GOOD, torch.eye(2), false_alarm_rate=1.0), ValueError, "false_alarm_rate must be < 1"),
    (lambda: check_gaussian(GOOD, torch.eye(3)), ValueError, r"covariance must have shape \(2, 2\)"),
    (lambda: check_gaussian(GOOD, torch.eye(2) * math.inf), ValueError, "covariance must be finite"),
    (lambda: check_gaussian(GOOD, -torch.eye(2)), ValueError, "covariance must be symmetric and positive semi-def"),
    (lambda: check_gaussian(GOOD, torch.tensor([[1.0, 0.5], [0.4, 1.0]])), ValueError, "covariance must be symmetric"),
    (lambda: check_brownian_step(0.0, increment=GOOD), ValueError, "h must be a finite number > 0"),
    (lambda: check_brownian_step(torch.ones(2), increment=GOOD), ValueError, r"h must .* shape \(1000, 1\)"),
    (lambda: check_brownian_step(1.0, increment=GOOD[0]), ValueError, "increment must have shape"),
    (lambda: check_brownian_step(1.0, increment=GOOD, space_time_area=GOOD[:, :1]), ValueError, "space_time_area must"),
    (lambda: check_brownian_step(1.0, increment=GOOD, space_time_time_area=[0.0]), TypeError, "space_time_time_area"),
    (lambda: check_brownian_step(1.0, increment=GOOD, levy_area=GOOD), ValueError, r"levy_area .* \(1000, 2, 2\)"),
    (lambda: check_brownian_step(1.0, increment=GOOD, false_alarm_rate=2.0), ValueError, "false_alarm_rate"),
])  # fmt: skip
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- Chen's identity ---


def test_chen_deviation():
    path = BrownianPath(0.0, 1.0, (4, 2), seeds=[1, 2, 3, 4], depth=3, cells=2**4, area=True, dtype=torch.float64)
    whole, first, second = (path.partial_signature(s, t) for s, t in ((0.0, 1.0), (0.0, 0.25), (0.25, 1.0)))
    assert chen_deviation(whole, first, second) < 64
    assert chen_deviation(whole, second, first) > 1e12
    assert chen_deviation(whole.reverse(), first, second) > 1e12
    assert chen_deviation(whole, first, path.partial_signature(0.25, 0.75)) > 1e12
    assert chen_deviation(whole.without_area(), first.without_area(), second.without_area()) < 64
    longer = PartialSignature(2 * whole.h, whole.coefficients)
    assert chen_deviation(longer, first.without_area(), second.without_area()) > 1e12
    with pytest.raises(ValueError, match="whole must agree"):
        chen_deviation(whole.truncate(2), first, second)
    with pytest.raises(ValueError, match="whole must agree"):
        chen_deviation(whole.without_area(), first, second)


def test_chen_deviation_sees_the_area_alone():
    """Areas that are not Chen products, as those of torchsde are not, beside increments that add up."""
    ps = sample_partial_signature((5, 2), 1.0, 2, area="foster", generator=seeded(24), dtype=torch.float64)
    first, second = ps.without_area().split(0.5, generator=seeded(25))
    assert chen_deviation(ps.without_area(), first, second) < 64
    with_areas = [
        PartialSignature(part.h, part.coefficients, levy_area(part.increment, 0.5, generator=seeded(seed)))
        for seed, part in enumerate((first, second), start=26)
    ]
    assert chen_deviation(ps, *with_areas) > 1e12


def test_a_report_is_one_line():
    samples = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right, wrong = (check_moments(samples, [0.0, mean], names=["first", "second"]) for mean in (0.0, 1.0))
    assert repr(right).startswith("LawReport(passed: 2 statistics of n = 2000 samples, worst ")
    z = wrong.z_scores[1].item()
    text = f"2 statistics of n = 2000 samples, worst second with z = {z:.2f}, threshold {wrong.threshold:.2f}"
    assert repr(wrong) == f"LawReport(failed: {text})"
