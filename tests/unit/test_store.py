"""Files survive what happens to files: torn lines, damage, several writers."""

import numpy as np
import pytest
import torch

from harness.errors import ArtifactError
from harness.store import artifacts
from harness.store.files import append_line, read_json, read_lines, write_atomic
from harness.store.records import EvalRow, Measure
from harness.store.run import Run
from harness.train.checkpoint import TrainingState, load_checkpoint, save_checkpoint


def row(step=1, value=1.0, nfe=1):
    return EvalRow(step, step * 8, 0.1, nfe, "frechet", "raw", 10, 10, value)


def test_a_torn_last_line_is_dropped_and_overwritten(tmp_path):
    run = Run(tmp_path)
    run.append(row(1))
    run.append(row(2))
    path = tmp_path / "eval.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[1])):
        path.write_bytes(whole[:-cut])
        kept = [1] if cut > 1 else [1, 2]  # all but the newline is there: it counts, for good
        assert [r.step for r in run.rows().values()] == kept
        run.append(row(3))
        assert [r.step for r in run.rows().values()] == [*kept, 3]


def test_damage_before_the_end_is_an_error_that_names_the_line(tmp_path):
    path = tmp_path / "x.jsonl"
    append_line(path, {"a": 1})
    path.write_bytes(b"garbage\n" + path.read_bytes())
    with pytest.raises(ArtifactError, match="line 1"):
        list(read_lines(path))


def test_last_row_of_a_key_wins_and_missing_knows(tmp_path):
    run = Run(tmp_path)
    run.append(row(1, 5.0))
    run.append(row(1, 6.0))
    assert [r.value for r in run.rows().values()] == [6.0]
    have, lack = Measure(1, 1, "frechet", "raw", 10), Measure(1, 2, "frechet", "raw", 10)
    assert run.missing([have, lack]) == [lack]


def test_atomic_write_leaves_no_litter_and_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / "a" / "x.json"
    write_atomic(path, '{"v": 1}')
    with pytest.raises(TypeError):
        write_atomic(path, 3)
    assert read_json(path) == {"v": 1}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_artifacts_are_made_once_and_checked(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(5.0)}

    first = artifacts.get_or_make(tmp_path, "kind", {"a": 1}, make)
    again = artifacts.get_or_make(tmp_path, "kind", {"a": 1}, make)
    assert len(made) == 1
    assert np.array_equal(again.arrays["x"], first.arrays["x"])
    artifacts.get_or_make(tmp_path, "kind", {"a": 2}, make)
    assert len(made) == 2
    damaged = bytearray(first.path.read_bytes())
    damaged[-1] ^= 1
    first.path.write_bytes(damaged)
    with pytest.raises(ArtifactError, match=r"does not match its digest; delete"):
        artifacts.get_or_make(tmp_path, "kind", {"a": 1}, make)
    first.path.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        artifacts.get_or_make(tmp_path, "kind", {"a": 1}, make)


def make_state(seed):
    torch.manual_seed(seed)
    network, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimizer = torch.optim.RAdam(network.parameters(), lr=0.1)
    for _ in range(8):
        network(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    return TrainingState(network, target, optimizer)


def test_checkpoint_restores_everything_bit_for_bit(tmp_path):
    state = make_state(0)
    state.step, state.seconds = 30, 1.25
    save_checkpoint(tmp_path, state)
    other = make_state(1)
    load_checkpoint(tmp_path, other, at_most=100)
    assert (other.step, other.seconds) == (30, 1.25)
    for a, b in ((state.network, other.network), (state.target, other.target)):
        for x, y in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.equal(x, y)
    for s in (state, other):
        torch.manual_seed(5)
        s.network.zero_grad()
        s.network(torch.randn(4, 3)).square().sum().backward()
        s.optimizer.step()
    assert torch.equal(state.network.weight, other.network.weight)


def test_newest_whole_checkpoint_is_used(tmp_path, caplog):
    state = make_state(0)
    for step in (10, 20, 30):
        state.step = step
        save_checkpoint(tmp_path, state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020", "step-00000030"]
    (tmp_path / "step-00000030" / "network.safetensors").write_bytes(b"half")
    (tmp_path / ".step-00000040.1.tmp").mkdir()
    fresh = make_state(1)
    load_checkpoint(tmp_path, fresh, at_most=100)
    assert fresh.step == 20
    assert "does not match its digest" in caplog.text
    fresh = make_state(1)
    load_checkpoint(tmp_path, fresh, at_most=19)
    assert fresh.step == 0


def test_a_plugin_may_gain_a_parameter_without_orphaning_its_runs():
    from harness.store.records import PluginSpec

    old = PluginSpec("analytic", 1, {"levels": 60}, {"levels": 60})
    new = PluginSpec("analytic", 1, {"levels": 60, "cap": 1.0}, {"levels": 60})
    used = PluginSpec("analytic", 1, {"levels": 60, "cap": 2.0}, {"levels": 60, "cap": 2.0})
    assert old.identity == new.identity != used.identity
    assert PluginSpec("analytic", 2, {"levels": 60}, {"levels": 60}).identity != old.identity
