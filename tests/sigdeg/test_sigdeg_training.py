"""The training loop: it goes on bit-exactly after SIGKILL, keeps to its formulas, and stops at what is not finite."""

import json
import math
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sdesig._interrupts import stop_requests
from sdesig._random import generator_for, seeded
from sdesig.sigdeg import MLP, NetworkDenoiser, TrainingOptions, train, train_teacher
from sdesig.sigdeg.training import _reduce_gradients


def options(**changes):
    return TrainingOptions(**({"iterations": 30, "warmup": 4, "checkpoint_every": 5, "ema": 0.9} | changes))


def problem(pause=0.0):
    """A network, and a loss that depends on the iteration and its generator alone."""
    torch.manual_seed(0)
    network = MLP(2, width=16, blocks=1)

    def loss(iteration, generator):
        time.sleep(pause)
        x = torch.randn(32, 2, generator=generator)
        level = torch.rand(32, generator=generator)
        return (network(x, level) - (x * (1 + level[:, None])).sin()).square().mean(), 32

    return network, loss


def run(out, pause=0.0, wrap=None, **changes):
    network, loss = problem(pause)
    recorded = {"problem": "sine"}
    return train(
        network, loss if wrap is None else wrap(loss), out, options(**changes), recorded=recorded, progress=False
    )


def tensors(out):
    """A copy of the checkpoint."""
    return {name: value.clone() for name, value in load_file(out / "checkpoint.safetensors").items()}


def lines(out):
    return [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in one go: its folder and the moving average."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


# --- going on --------------------------------------------------------------------------------------------------------

OTHER_PROCESS = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_sigdeg_training import run
torch.set_num_threads(1)
run(Path(sys.argv[2]), pause=float(sys.argv[3]))
"""


def test_a_killed_run_goes_on_bit_exactly(whole, tmp_path):
    """Weights, their moving average and the optimizer's state are those of a run in one go."""
    command = [sys.executable, "-c", OTHER_PROCESS, str(Path(__file__).parent), str(tmp_path), "0.05"]
    process = subprocess.Popen(command)
    try:
        limit = time.monotonic() + 120
        while not (tmp_path / "stats.jsonl").exists() or len((tmp_path / "stats.jsonl").read_text().splitlines()) < 2:
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < limit
            time.sleep(0.01)
        time.sleep(0.08)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert 5 <= tensors(tmp_path)["iteration"] < 30
    average = run(tmp_path)  # in this process, which never saw the other's weights
    folder, expected = whole
    assert_same(tensors(tmp_path), tensors(folder))
    assert_same(average.state_dict(), expected.state_dict())
    assert [line["iteration"] for line in lines(tmp_path)] == [5, 10, 15, 20, 25, 30]


class Stopped(Exception):
    pass


def stopping_at(stop):
    def wrap(loss):
        def stopped(iteration, generator):
            if iteration == stop:
                raise Stopped
            return loss(iteration, generator)

        return stopped

    return wrap


@pytest.mark.parametrize("stop", [3, 10, 17])
def test_a_run_that_was_stopped_goes_on_bit_exactly(whole, tmp_path, stop):
    """Before the first checkpoint, at one, and between two: all iterations are kept."""
    with pytest.raises(Stopped):
        run(tmp_path, wrap=stopping_at(stop))
    assert tensors(tmp_path)["iteration"] == stop
    average = run(tmp_path)
    folder, expected = whole
    assert_same(tensors(tmp_path), tensors(folder))
    assert_same(average.state_dict(), expected.state_dict())
    assert [line["iteration"] for line in lines(tmp_path)] == [line["iteration"] for line in lines(folder)]


def test_lines_after_the_checkpoint_are_forgotten(tmp_path):
    """A run that was killed between a line and its checkpoint would have the line twice."""
    with pytest.raises(Stopped):
        run(tmp_path, wrap=stopping_at(12))
    with (tmp_path / "stats.jsonl").open("a") as file:
        file.write(json.dumps({"iteration": 15, "loss": 1.0}) + "\n")
    run(tmp_path)
    assert [line["iteration"] for line in lines(tmp_path)] == [5, 10, 15, 20, 25, 30]
    assert all(line.keys() == lines(tmp_path)[0].keys() for line in lines(tmp_path))


def test_a_run_that_is_done_does_nothing_more(whole, tmp_path):
    run(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    average = run(tmp_path, wrap=stopping_at(30))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert_same(average.state_dict(), whole[1].state_dict())


def test_the_result_is_the_moving_average_of_the_checkpoint(whole):
    folder, average = whole
    saved = tensors(folder)
    for name, value in average.state_dict().items():
        assert torch.equal(saved[f"average.{name}"], value)
        if value.is_floating_point() and "frequencies" not in name:
            assert not torch.equal(saved[f"module.{name}"], value)


def test_the_last_iteration_has_a_checkpoint_too(tmp_path):
    run(tmp_path, iterations=7)
    assert tensors(tmp_path)["iteration"] == 7
    assert [line["iteration"] for line in lines(tmp_path)] == [5, 7]


def test_every_iteration_draws_anew_and_always_the_same(tmp_path):
    drawn = []

    def wrap(loss):
        def recording(iteration, generator):
            drawn.append(torch.rand(3, generator=generator).tolist())
            return loss(iteration, generator)

        return recording

    run(tmp_path / "one", wrap=wrap, iterations=4)
    run(tmp_path / "two", wrap=wrap, iterations=4)
    assert drawn[:4] == drawn[4:]
    assert len({tuple(values) for values in drawn}) == 4


def test_another_seed_is_another_run(whole, tmp_path):
    other = run(tmp_path, seed=1)
    assert not torch.equal(other.first.weight, whole[1].first.weight)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"learning_rate": 2e-3}, r"\(training.learning_rate: 0.001, now 0.002\)"),
        ({"seed": 1, "ema": 0.5}, r"\(training.ema: 0.9, now 0.5; training.seed: 0, now 1\)"),
        ({"iterations": 20}, r"\(training.iterations: 30, now 20\)"),
        ({"iterations": 40, "seed": 1}, r"\(training.iterations: 30, now 40; training.seed: 0, now 1\)"),
    ],
)
def test_a_run_with_other_options_is_refused(whole, changes, match):
    folder, _ = whole
    before = tensors(folder)
    with pytest.raises(ValueError, match=f"has a run with other options .*{match}.*give another folder"):
        run(folder, **changes)
    assert_same(tensors(folder), before)


def test_a_run_of_another_problem_is_refused(whole):
    network, loss = problem()
    with pytest.raises(ValueError, match=r"has a run with other options .*problem: 'sine', now 'cosine'"):
        train(network, loss, whole[0], options(), recorded={"problem": "cosine"}, progress=False)


def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path, wrap=stopping_at(7))
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is not a complete safetensors file"):
        run(tmp_path)


# --- what stops it ---------------------------------------------------------------------------------------------------


def signalling(number, at, times=1, then=None):
    """A loss that sends signals to this process in one iteration."""

    def wrap(loss):
        def signalled(iteration, generator):
            if iteration == at:
                for k in range(times):
                    if k:
                        then()
                    signal.raise_signal(number)
            return loss(iteration, generator)

        return signalled

    return wrap


@pytest.fixture
def clock(monkeypatch):
    """Of interrupts and checkpoints; it stands still."""
    now = SimpleNamespace(seconds=0.0)
    for module in ("_interrupts", "sigdeg.training"):
        stopped = SimpleNamespace(monotonic=lambda: now.seconds, perf_counter=time.perf_counter)
        monkeypatch.setattr(f"sdesig.{module}.time", stopped)
    return now


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_after_the_iteration(whole, tmp_path, number):
    """The checkpoint has it; handlers are those of before; and it goes on to the same end."""
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt, match=r"all iterations that were completed are kept in .*: the same") as stop:
        run(tmp_path, wrap=signalling(number, 12))
    assert stop.value.number == number
    assert tensors(tmp_path)["iteration"] == 13
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    average = run(tmp_path)
    assert_same(tensors(tmp_path), tensors(whole[0]))
    assert_same(average.state_dict(), whole[1].state_dict())
    assert [line["iteration"] for line in lines(tmp_path)] == [5, 10, 15, 20, 25, 30]


def test_a_second_ctrl_c_stops_it_at_once(whole, tmp_path, clock):
    """The iteration is not completed; the ones before are kept."""
    later = lambda: setattr(clock, "seconds", clock.seconds + 2.0)  # noqa: E731
    with pytest.raises(KeyboardInterrupt, match="all iterations that were completed are kept"):
        run(tmp_path, wrap=signalling(signal.SIGINT, 12, 2, later))
    assert tensors(tmp_path)["iteration"] == 12
    run(tmp_path)
    assert_same(tensors(tmp_path), tensors(whole[0]))


@pytest.mark.parametrize(
    "number, pause", [(signal.SIGINT, 0.1), (signal.SIGTERM, 2.0)], ids=["one Ctrl-C that comes twice", "SIGTERM"]
)
def test_a_second_signal_that_is_no_second_ctrl_c(tmp_path, clock, number, pause):
    """The terminal and torchrun both send the one Ctrl-C; SIGTERM is never in a hurry."""
    later = lambda: setattr(clock, "seconds", clock.seconds + pause)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, wrap=signalling(number, 12, 2, later))
    assert tensors(tmp_path)["iteration"] == 13


def test_signals_that_are_ignored_stay_so(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run(tmp_path, wrap=signalling(signal.SIGINT, 3), iterations=6)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_came_too_late_to_be_looked_for_is_not_lost():
    with pytest.raises(KeyboardInterrupt), stop_requests():
        signal.raise_signal(signal.SIGINT)


def test_a_thread_has_no_handlers(whole, tmp_path):
    made = []
    thread = threading.Thread(target=lambda: made.append(run(tmp_path)))
    thread.start()
    thread.join()
    assert_same(made[0].state_dict(), whole[1].state_dict())


def test_a_checkpoint_every_few_minutes(tmp_path, clock):
    """Of iterations of 100 s each: one in every three, besides those that are due, without a line of their own."""
    seen = []

    def wrap(loss):
        def watched(iteration, generator):
            file = tmp_path / "checkpoint.safetensors"
            seen.append(int(tensors(tmp_path)["iteration"]) if file.exists() else 0)
            clock.seconds += 100.0
            return loss(iteration, generator)

        return watched

    run(tmp_path, wrap=wrap, iterations=10, checkpoint_every=5)
    assert seen == [0, 0, 0, 3, 3, 5, 5, 5, 8, 8]
    assert [line["iteration"] for line in lines(tmp_path)] == [5, 10]


def test_processes_stop_together(tmp_path, monkeypatch):
    """One that was not asked itself stops after the same iteration: it is told with the gradients."""
    sums = []

    def other_process(tensor):  # has no gradients, and was asked in its fourth iteration
        sums.append(tensor)
        network = problem()[0]
        tensor[len(list(network.parameters())) + len(list(network.buffers()))] += len(sums) == 4

    monkeypatch.setattr("sdesig._processes.world_size", lambda: 2)
    monkeypatch.setattr("sdesig._processes.all_reduce", other_process)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, parts=2)
    assert tensors(tmp_path)["iteration"] == 4


# --- longer runs, and the same data ----------------------------------------------------------------------------------


def test_a_run_may_be_prolonged(tmp_path):
    """It goes on with the learning rates of the new length."""
    first, second, gradient = Weights(), Weights(), lambda k: torch.tensor([1.0, 1.0])
    first.descend(tmp_path, gradient, iterations=6, warmup=2, learning_rate=0.1)
    second.descend(tmp_path, gradient, iterations=10, warmup=2, learning_rate=0.1)
    assert torch.equal(second.seen[0], first.seen[-1])
    rates = [0.05 * (1 + math.cos(math.pi * (k - 2) / 8)) for k in range(6, 10)]
    moves = torch.stack(second.seen).diff(dim=0)[:, 0]
    torch.testing.assert_close(moves, -torch.tensor(rates), rtol=1e-4, atol=1e-6)
    assert json.loads((tmp_path / "options.json").read_text())["training"]["iterations"] == 10
    with pytest.raises(ValueError, match=r"\(training.iterations: 10, now 6\)"):
        Weights().descend(tmp_path, gradient, iterations=6, warmup=2, learning_rate=0.1)


def test_what_has_a_hash_is_known_by_it(tmp_path):
    network, loss = problem()

    def again(name, digest):
        data = {"name": name, "sha256": digest}
        recorded = {"data": data, "models": [data], "label": {"name": name}} if digest else {"data": {"name": name}}
        train(network, loss, tmp_path / str(bool(digest)), options(iterations=1), recorded=recorded, progress=False)

    again("data.npz", "12")
    with pytest.raises(ValueError, match=r"\(label.name: 'data.npz', now '../data.npz'\)"):
        again("../data.npz", "12")
    with pytest.raises(ValueError, match=r"\(data.sha256: '12', now '13'; models: "):
        again("data.npz", "13")
    again("data.npz", None)
    with pytest.raises(ValueError, match=r"\(data.name: 'data.npz', now '../data.npz'\)"):
        again("../data.npz", None)


# --- formulas -----------------------------------------------------------------------------------------------------


class Weights(nn.Module):
    """Three numbers, one of them frozen, and their values before every iteration."""

    def __init__(self, start=(0.0, 0.0)):
        super().__init__()
        self.moving, self.frozen = nn.Parameter(torch.tensor(start)), nn.Parameter(torch.tensor([7.0]), False)
        self.seen = []

    def descend(self, out, gradient, **changes):
        """Train with given gradients, one tensor per iteration."""

        def loss(iteration, generator):
            self.seen.append(self.moving.detach().clone())
            return (self.moving * gradient(iteration)).sum(), 1

        average = train(self, loss, out, TrainingOptions(**changes), recorded={}, progress=False)
        self.seen.append(self.moving.detach().clone())
        return average


def test_learning_rates_are_a_linear_warm_up_and_half_a_cosine(tmp_path):
    """With one gradient for ever Adam moves by the learning rate."""
    weights, n, warmup = Weights(), 20, 5
    weights.descend(tmp_path, lambda k: torch.tensor([1.0, -2.0]), iterations=n, warmup=warmup, learning_rate=0.1)
    moves = torch.stack(weights.seen).diff(dim=0)
    rates = [0.1 * (k + 1) / warmup for k in range(warmup)]
    rates += [0.05 * (1 + math.cos(math.pi * (k - warmup) / (n - warmup))) for k in range(warmup, n)]
    torch.testing.assert_close(moves[:, 0], -torch.tensor(rates), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(moves[:, 1], torch.tensor(rates), rtol=1e-4, atol=1e-6)
    assert weights.frozen.item() == 7.0


def test_the_default_warm_up_scales_with_the_iterations():
    """A tenth of them, 200 at most: a short run is not all warm-up."""
    found = {n: TrainingOptions(iterations=n).warmup_iterations for n in (1, 20, 400, 2000, 10_000)}
    assert found == {1: 0, 20: 2, 400: 40, 2000: 200, 10_000: 200}
    assert replace(TrainingOptions(), iterations=20).warmup_iterations == 2
    assert TrainingOptions(iterations=20, warmup=7).warmup_iterations == 7


def test_without_a_warm_up_the_cosine_starts_at_once(tmp_path):
    weights = Weights()
    weights.descend(tmp_path, lambda k: torch.tensor([1.0, 1.0]), iterations=4, warmup=0, learning_rate=0.1)
    rates = [0.05 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    torch.testing.assert_close(torch.stack(weights.seen).diff(dim=0)[:, 0], -torch.tensor(rates), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ema", [0.0, 0.5, 0.999])
def test_moving_average(tmp_path, ema):
    """a <- d a + (1 - d) w with d = min(ema, (1 + k)/(10 + k)) after iteration k."""
    weights = Weights((1.0, 2.0))
    average = weights.descend(
        tmp_path, lambda k: torch.tensor([1.0, math.sin(k)]), iterations=25, warmup=0, ema=ema, learning_rate=0.3
    )
    expected = weights.seen[0]
    for k, value in enumerate(weights.seen[1:]):
        decay = min(ema, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(average.moving, expected, rtol=1e-5, atol=1e-6)
    assert average.frozen.item() == 7.0
    assert average is not weights
    assert ((average.moving - weights.moving).abs().max() > 1e-3) == (ema > 0)


def test_gradients_are_clipped(tmp_path):
    """A gradient of norm 1000, then one of norm 1: both count as 1, so that Adam moves on evenly. Without clipping the
    first would shorten the second move."""

    def second_over_first(clip):
        weights = Weights()
        gradient = lambda k: torch.tensor([600.0, 800.0]) if k == 0 else torch.tensor([0.6, 0.8])  # noqa: E731
        weights.descend(tmp_path / str(clip), gradient, iterations=2, warmup=10, clip=clip)
        moves = torch.stack(weights.seen).diff(dim=0)
        return (moves[1] / moves[0])[0].item() / 2  # the warm-up's second rate is twice its first

    assert second_over_first(1.0) == pytest.approx(1.0, rel=1e-3)
    assert second_over_first(1e6) == pytest.approx(0.67, abs=0.02)


def test_weight_decay_pulls_to_zero(tmp_path):
    weights = Weights((1.0, -2.0))
    weights.descend(tmp_path, lambda k: torch.zeros(2), iterations=3, warmup=10, weight_decay=0.5, learning_rate=0.1)
    left = math.prod(1 - 0.5 * 0.1 * (k + 1) / 10 for k in range(3))
    torch.testing.assert_close(weights.moving.detach(), left * torch.tensor([1.0, -2.0]))
    assert weights.frozen.item() == 7.0


def test_stats_tell_loss_and_speed(whole):
    found = lines(whole[0])
    assert all(line["samples_per_second"] > 0 and line["seconds"] > 0 for line in found)
    assert found[-1]["loss"] < found[0]["loss"]


def beside(loss, first=4, every=5):
    """The loss as a logarithm, in some iterations beside that of three times its error, which is four in all later."""

    def compared(iteration, generator):
        value, n = loss(iteration, generator)
        if (iteration + 1) % every:
            return value.log(), n
        return value.log(), n, value.detach().log() + 2 * math.log(3 if iteration == first else 4)

    return compared


def test_stats_tell_the_share_of_what_the_loss_is_compared_with(tmp_path):
    """A mean over the comparisons: a third, and then quarters."""
    run(tmp_path, wrap=lambda loss: beside(loss), checkpoint_every=1, iterations=20)
    found = lines(tmp_path)
    assert all("error_share" not in line for line in found[:4])
    wanted = [math.exp(-(math.log(3) + k * math.log(4)) / (k + 1)) for k in range(4)]
    assert [line["error_share"] for line in found[4:]] == pytest.approx(
        [wanted[k] for k in (*[0] * 5, *[1] * 5, *[2] * 5, 3)]
    )


def test_the_share_of_a_resumed_run_is_of_its_own_comparisons(tmp_path):
    wrap = partial(beside, first=4)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, wrap=lambda loss: lambda k, generator: 1 / 0 if k == 12 else wrap(loss)(k, generator))
    run(tmp_path, wrap=wrap)
    assert [line["error_share"] for line in lines(tmp_path)[2:]] == pytest.approx([1 / 4] * 4)


def test_what_a_loss_is_compared_with_changes_nothing(tmp_path):
    run(tmp_path / "one", wrap=lambda loss: beside(loss))
    run(tmp_path / "other", wrap=lambda loss: beside(loss, every=1000))
    assert_same(tensors(tmp_path / "one"), tensors(tmp_path / "other"))


def test_the_bar_tells_the_share(tmp_path, monkeypatch):
    said = []

    class Bar(list):
        def set_postfix_str(self, text, _):
            said.append(text)

    monkeypatch.setattr("sdesig.sigdeg.training.progress_bar", lambda parts, **_: Bar(parts))
    run(tmp_path, wrap=lambda loss: beside(loss, first=14, every=15))
    assert [re.sub(r"[\d.-]+(?= samples)|(?<=loss )[\d.-]+", "x", text) for text in said] == [
        "loss x, x samples/s",
        "loss x, error 0.33 of the untrained, x samples/s",
        "loss x, error 0.29 of the untrained, x samples/s",
    ]


def test_bfloat16_is_for_the_products_alone(tmp_path):
    """Autocast is on inside our networks alone; weights, gradients and the moving average stay in single precision."""
    outside, inside = [], []

    def wrap(loss):
        def recording(iteration, generator):
            outside.append(torch.is_autocast_enabled("cpu"))
            return loss(iteration, generator)

        return recording

    def watch(module, *_):
        if isinstance(module, torch.nn.Linear):
            inside.append(torch.is_autocast_enabled("cpu"))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(watch)
    average = run(tmp_path / "half", wrap=wrap, precision="bfloat16")
    hook.remove()
    assert not any(outside)
    assert inside
    assert all(inside)
    assert all(value.dtype == torch.float32 for value in average.state_dict().values())
    assert all(value.isfinite().all() for value in average.state_dict().values())
    single = run(tmp_path / "single")
    difference = (average.final.weight - single.final.weight).abs().max()
    assert 0 < difference < 0.05


# --- what networks have beside weights -------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Dropout, running statistics, one matrix that is used twice, and a buffer that is replaced."""

    last: torch.Tensor

    def __init__(self):
        super().__init__()
        with seeded(0):
            self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.two.weight = self.one.weight
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.3)
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x):
        h = self.dropout(self.norm(self.one(x)).relu())
        self.last = 0.5 * self.last + h.detach().mean()
        return self.three(self.two(h).relu())

    def descend(self, out, stop=None, **changes):
        def loss(iteration, generator):
            x = torch.randn(8, 4, generator=generator)
            value = (self(x) - x.sum(1, keepdim=True)).square().mean()
            if iteration == stop:
                raise Stopped
            return value, 8

        return train(self, loss, out, options(**{"iterations": 12, **changes}), recorded={}, progress=False)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_resumed_run_has_the_same_dropout_and_statistics(tmp_path, parts):
    """Stopped in the middle of an iteration whose batch the statistics have seen; global state is not touched."""
    torch.manual_seed(3)
    state = torch.get_rng_state()
    whole = Mixed().descend(tmp_path / "whole", parts=parts)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    with pytest.raises(Stopped):
        Mixed().descend(tmp_path / "resumed", stop=7, parts=parts)
    assert_same(Mixed().descend(tmp_path / "resumed", parts=parts).state_dict(), whole.state_dict())
    assert_same(tensors(tmp_path / "resumed"), tensors(tmp_path / "whole"))
    other = Mixed().descend(tmp_path / "other", seed=1, parts=parts)
    assert not torch.equal(other.one.weight, whole.one.weight)


def test_every_iteration_has_its_own_dropout(tmp_path):
    masks, dropout = [], nn.Dropout(0.5)
    weights = Weights()

    def loss(iteration, generator):
        masks.append(dropout(torch.ones(64)).tolist())
        assert masks[-1] != dropout(torch.randn(64, generator=generator).sign().abs()).tolist()
        return weights.moving.sum(), 1

    train(weights, loss, tmp_path, options(iterations=3, parts=2), recorded={}, progress=False)
    assert len({tuple(mask) for mask in masks}) == 6


def test_buffers_of_the_average_are_the_modules(tmp_path):
    module = Mixed()
    average = module.descend(tmp_path)
    assert module.norm.num_batches_tracked == 12
    assert module.norm.running_mean.abs().max() > 0
    for mean, value in zip(average.buffers(), module.buffers(), strict=True):
        assert torch.equal(mean, value)
        assert mean is not value
    assert not torch.equal(average.one.weight, module.one.weight)


def test_weights_that_are_tied_stay_so(tmp_path):
    average = Mixed().descend(tmp_path)
    assert average.one.weight is average.two.weight
    saved = tensors(tmp_path)
    assert torch.equal(saved["module.one.weight"], saved["module.two.weight"])
    assert sum(name.endswith(".exp_avg") for name in saved) == len(list(average.parameters()))


def test_parts_average_what_they_change_in_buffers(tmp_path):
    """Each starts with the same statistics: which process does a part does not matter."""
    module = Mixed()
    module.descend(tmp_path, iterations=1, parts=3)
    expected = []
    for part in range(3):
        alone = Mixed()
        with seeded(0):
            alone(torch.randn(8, 4, generator=generator_for("training", 0, 0, part)))
        expected.append(alone.norm.running_mean)
    torch.testing.assert_close(module.norm.running_mean, torch.stack(expected).mean(0))
    assert module.norm.num_batches_tracked == 1


# --- what is not finite ---------------------------------------------------------------------------------------------


def poison(at, value):
    """A loss that is multiplied by a value in one iteration."""

    def wrap(loss):
        def poisoned(iteration, generator):
            result, count = loss(iteration, generator)
            return result * value if iteration == at else result, count

        return poisoned

    return wrap


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, value, whole):
    with pytest.raises(
        FloatingPointError, match=r"at iteration 7; the last checkpoint in .* is kept: lower the learning"
    ):
        run(tmp_path, wrap=poison(7, value))
    saved = tensors(tmp_path)
    assert saved["iteration"] == 5
    assert all(value.isfinite().all() for value in saved.values())
    run(tmp_path)
    assert_same(tensors(tmp_path), tensors(whole[0]))


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    """sqrt(|w|) at w = 0: the loss is 0."""
    weights = Weights()

    def loss(iteration, generator):
        return weights.moving.abs().sqrt().sum(), 1

    with pytest.raises(FloatingPointError, match=r"loss 0.0 with a gradient of norm (nan|inf) at iteration 0"):
        train(weights, loss, tmp_path, TrainingOptions(iterations=3), recorded={}, progress=False)
    assert torch.equal(weights.moving.detach(), torch.zeros(2))


# --- a teacher from data ---------------------------------------------------------------------------------------------


MEAN, STD = torch.tensor([0.5, -0.3]), torch.tensor([1.0, 0.4])


def gaussian_data(n=4000):
    return MEAN + STD * torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def excess(denoiser, sigma):
    """Root of E|D - E[x_0 | x]|^2 / E|x_0 - E[x_0 | x]|^2 at a noise level."""
    clean = gaussian_data()
    x = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    exact = MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)
    with torch.no_grad():
        found = denoiser.denoiser(x, torch.tensor(sigma))
    return ((found - exact).square().mean() / (clean - exact).square().mean()).sqrt().item()


def test_a_teacher_learns_the_linear_denoiser_of_gaussian_data(tmp_path):
    torch.manual_seed(0)
    network = MLP(2, width=32, blocks=1)
    data = gaussian_data()
    before = NetworkDenoiser(MLP(2, width=32, blocks=1), data.std().item())
    chosen = TrainingOptions(iterations=400, warmup=20, learning_rate=3e-3, ema=0.98, checkpoint_every=1000)
    teacher = train_teacher(network, data, tmp_path, chosen, batch=256, progress=False)
    for sigma in (0.3, 1.0, 3.0):
        assert excess(teacher, sigma) < 0.25
        assert excess(before, sigma) > 2 * excess(teacher, sigma)
    assert teacher.sigma_data == pytest.approx(data.std().item())
    assert not teacher.training
    loaded = NetworkDenoiser.load(tmp_path / "teacher")
    assert excess(loaded, 1.0) == excess(teacher, 1.0)
    with pytest.raises(ValueError, match=r"has a run with other options .*batch: 256, now 128"):
        train_teacher(network, data, tmp_path, chosen, batch=128, progress=False)


def teach(network=None, data=None, folder=Path("unused"), **more):
    network = MLP(2, width=8, blocks=1) if network is None else network
    data = gaussian_data(10) if data is None else data
    return train_teacher(network, data, folder, TrainingOptions(iterations=1), progress=False, **more)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: teach(data=torch.zeros(4, 3)), ValueError, r"data must have shape \(n >= 2, \(2,\)\); got \(4, 3\)"),
        (lambda: teach(data=torch.zeros(1, 2)), ValueError, r"data must have shape .* got \(1, 2\)"),
        (lambda: teach(data=torch.zeros(4, 2).long()), TypeError, "data must have a real floating-point dtype"),
        (lambda: teach(data=torch.zeros(4, 2)), ValueError, "sigma_data must be a finite number > 0"),
        (lambda: teach(batch=0), ValueError, r"batch must be in \[1, 1073741824\]; got 0"),
        (lambda: TrainingOptions(iterations=0), ValueError, r"iterations must be in \[1, 1073741824\]; got 0"),
        (lambda: TrainingOptions(learning_rate=0.0), ValueError, "learning_rate must be a finite number > 0"),
        (lambda: TrainingOptions(weight_decay=-1.0), ValueError, "weight_decay must be a finite number >= 0"),
        (lambda: TrainingOptions(warmup=-1), ValueError, "warmup must be >= 0; got -1"),
        (lambda: TrainingOptions(ema=1.0), ValueError, r"ema must be in \[0, 1\); got 1.0"),
        (lambda: TrainingOptions(clip=0.0), ValueError, "clip must be a finite number > 0"),
        (lambda: TrainingOptions(seed=-1), ValueError, "seed must be in"),
        (lambda: TrainingOptions(checkpoint_every=0), ValueError, "checkpoint_every must be >= 1; got 0"),
        (lambda: TrainingOptions(precision="float16"), ValueError, "precision must be one of 'float32', 'bfloat16'"),
    ],
)
def test_refusals(call, error, match):
    with pytest.raises(error, match=match):
        call()
    assert not Path("unused").exists()


def test_a_module_with_nothing_to_train_is_refused(tmp_path):
    """Such as the result of an earlier run, whose parameters require no gradients."""
    network, loss = problem()
    with pytest.raises(ValueError, match=r"requires? gradients"):
        train(network.requires_grad_(False), loss, tmp_path, options(), recorded={}, progress=False)


def test_a_folder_may_be_named_by_a_string(tmp_path):
    network, loss = problem()
    train(network, loss, str(tmp_path / "run"), options(iterations=1), progress=False)
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


# --- parts -----------------------------------------------------------------------------------------------------------


def test_parts_average_their_gradients(tmp_path):
    """Of two equal parts: the step is that of one loss, their mean, drawn from the two generators of the parts."""

    def averaged(loss):
        def both(iteration, generator):
            parts = [loss(iteration, generator_for("training", 0, iteration, part)) for part in range(2)]
            return sum(value for value, _ in parts) / 2, 64

        return both

    run(tmp_path / "parts", parts=2)
    run(tmp_path / "mean", wrap=averaged)
    parts, mean = tensors(tmp_path / "parts"), tensors(tmp_path / "mean")
    for name, value in parts.items():
        assert torch.allclose(value.double(), mean[name].double(), rtol=1e-3, atol=1e-5), name
    one, two = lines(tmp_path / "parts"), lines(tmp_path / "mean")
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in two], rel=1e-5)


def test_parts_draw_differently(tmp_path):
    seen = []

    def watched(loss):
        def call(iteration, generator):
            seen.append((iteration, generator.initial_seed()))
            return loss(iteration, generator)

        return call

    run(tmp_path, wrap=watched, parts=3, iterations=4)
    assert [iteration for iteration, _ in seen] == [k // 3 for k in range(12)]
    assert len({seed for _, seed in seen}) == 12


def test_parts_that_processes_do_not_divide(tmp_path, monkeypatch):
    monkeypatch.setattr("sdesig._processes.world_size", lambda: 2)
    with pytest.raises(ValueError, match="parts must be a multiple of the number of processes, 2; got 3"):
        run(tmp_path, parts=3)
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_losses_of_processes_are_added_up_with_what_they_are_compared_with(monkeypatch):
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    monkeypatch.setattr("sdesig._processes.all_reduce", lambda tensor: tensor.add_(torch.tensor([1.0, 0, 7, 9, 3, 4])))
    value = torch.tensor([1.0, 2.0])
    assert _reduce_gradients([weight], value, [False]) == [False]
    assert value.tolist() == [8.0, 11.0]
    assert weight.grad.tolist() == [4.0, 5.0]


def test_gradients_of_processes_are_added_up(monkeypatch):
    """Where one process has no gradient the others' is taken; where none has, it stays None."""
    one, two, three = (nn.Parameter(torch.ones(2, k + 1)) for k in range(3))
    one.grad, two.grad = torch.full((2, 1), 3.0), None

    def other_process(tensor):  # has gradients of 5 of the second, none of the others, says yes, no, has a loss of 7
        told = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 7.0])
        tensor += torch.cat([told, torch.zeros(2), 5 * torch.ones(4), torch.zeros(6)])

    monkeypatch.setattr("sdesig._processes.all_reduce", other_process)
    value = torch.tensor(1.0)
    assert _reduce_gradients([one, two, three], value, [False, False]) == [True, False]
    assert value == 8.0
    assert torch.equal(one.grad, torch.full((2, 1), 3.0))
    assert torch.equal(two.grad, torch.full((2, 2), 5.0))
    assert three.grad is None
