"""The state of a run, edited in every part of it: what is refused, by which name, with nothing touched."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import pyro_vae
from pyro_vae.runtime.tensor_files import read_tensors, write_tensors
from tests.support.programs import bits, fit, same, vae, weights

X = bits(24)
STATE = "last.safetensors"


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A state after two epochs of four steps, to be edited."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(7)
    fit(vae(), X, num_epochs=2, checkpoint=folder, scheduler=cosine)
    tensors, text = read_tensors(folder / STATE)
    return tensors, json.loads(text["run"])


def into(document, path, value):
    *above, key = path
    for step in above:
        document = document[step]
    document[key] = value


EXP_AVG = "optimizer.0.exp_avg"
TENSORS = [
    ({EXP_AVG: torch.zeros(3)}, r"slot 'exp_avg' of parameter 0: found \(3,\) of torch.float32, expected \(5, 2\) of"),
    ({EXP_AVG: torch.zeros(5, 2, dtype=torch.uint8)}, "slot 'exp_avg' of parameter 0: found .* of torch.uint8, expect"),
    ({EXP_AVG: torch.zeros(5, 2, dtype=torch.float64)}, "slot 'exp_avg' of parameter 0: found .* of torch.float64"),
    ({EXP_AVG: None}, "slot 'exp_avg' of parameter 0: found nothing, expected"),
    ({EXP_AVG: None, "optimizer.0.exp_avg_sq": None, "optimizer.0.step": None}, r"found slots .* expected \[0, 1, 2"),
    ({"optimizer.0.step": torch.tensor(-1.0)}, "slot 'step' of parameter 0: found -1.0, expected a count"),
    ({"optimizer.0.step": torch.tensor(torch.nan)}, "slot 'step' of parameter 0: found nan, expected a count"),
    ({"optimizer.0.new": torch.zeros(5, 2)}, "slot 'new' of parameter 0: found .*, expected nothing"),
    ({"optimizer.99.step": torch.tensor(1.0)}, "found slots of the parameters"),
    ({"optimizer.x.step": torch.tensor(1.0)}, "found the tensor 'optimizer.x.step', expected none of that name"),
    ({"generator.cpu": torch.zeros(5056)}, "generator.cpu: found .* of torch.float32, expected .* of torch.uint8"),
    ({"generator.cpu": torch.zeros(7, dtype=torch.uint8)}, r"generator.cpu: found \(7,\)"),
    (
        {"epoch_generator.cpu": torch.zeros(5056, dtype=torch.uint8)},
        "epoch_generator.cpu: found no state of a generator",
    ),
    ({"epoch_generator.cpu": None}, "epoch_generator.cpu: found nothing"),
    ({"bounds": torch.zeros(2)}, "bounds: found .*, expected two finite sums in float64"),
    ({"bounds": torch.full((2,), torch.inf, dtype=torch.float64)}, "bounds: found"),
    ({"bounds": None}, "bounds: found None"),
    ({"program.model.x": torch.zeros(1)}, r"leaf 'model.x': found \(1,\), expected nothing"),
    (
        {"program.guide.posterior.network.output.bias": torch.zeros(4, dtype=torch.int64)},
        "found torch.int64, expected to",
    ),
]
GROUP = ("optimizer", "param_groups", 0)
DOCUMENT = [
    (("position", "epoch"), -5, "position: epoch: found -5, expected a count"),
    (("position", "epoch"), 3, "position: epoch: found 3, expected 2 as recorded"),
    (("position", "step"), 9, "position: step: found 9, expected 8"),
    (("position", "step"), 8.0, "position: step: found 8.0, expected a count"),
    (("position", "count"), True, "position: count: found True, expected a count"),
    (("position", "count"), 5, "position: count: found 5 data in 0 steps"),
    (("position", "seconds"), "1", "position: seconds: found '1', expected seconds"),
    (("position", "write"), 0, "position: found .*'write'.*, expected epoch, step"),
    (("position",), None, "position: found None"),
    (("records", 0, "train_bound"), "x", r"records\[0\]: train_bound: found 'x', expected a number"),
    (("records", 1, "epoch"), 1, r"records\[1\]: epoch: found 1, expected 2"),
    (("records", 0), 3, r"records\[0\]: found 3, expected a record"),
    (("records", 0, "more"), [1], r"records\[0\]: more: found \[1\], expected plain data"),
    (("records",), {}, "records: found {}, expected a list"),
    ((*GROUP, "fused"), False, r"param_groups\[0\]: fused: found False, expected True"),
    ((*GROUP, "amsgrad"), 0, r"param_groups\[0\]: amsgrad: found 0, expected False"),
    ((*GROUP, "lr"), "0.1", r"param_groups\[0\]: lr: found '0.1', expected such as 0.01"),
    ((*GROUP, "lr"), float("nan"), r"param_groups\[0\]: lr: found nan"),
    ((*GROUP, "betas"), [0.9], r"param_groups\[0\]: betas: found \[0.9\], expected a list of 2"),
    ((*GROUP, "betas"), [0.9, -0.5], r"param_groups\[0\]: betas\[1\]: found -0.5, expected 0.999"),
    ((*GROUP, "new"), 1, r"param_groups\[0\]: key 'new': found one, expected none"),
    ((*GROUP, "params"), [0, 0], r"param_groups\[0\]: params: found \[0, 0\], expected a list"),
    (("optimizer", "slots"), [0], r"found slots of the parameters .*, expected \[0\]"),
    (("optimizer", "plain"), {"0": {"exp_avg": 1}}, "slot 'exp_avg' of parameter 0: found int"),
    (("optimizer", "plain"), {"x": {}}, "plain: found 'x', expected slots by parameters' numbers"),
    (("optimizer",), [], "optimizer: found no state of one"),
    (("scheduler", "step"), 0, "scheduler: key 'step': found one, expected none"),
    (("scheduler", "T_max"), 0, "scheduler: T_max: found 0, expected 5"),
    (("scheduler", "last_epoch"), -7, "scheduler: last_epoch: found -7, expected such as 0"),
    (("scheduler", "last_epoch"), 10**400, "scheduler: last_epoch: found 1000"),
    (("scheduler",), None, "scheduler: found none or one too many, expected CosineAnnealingLR"),
    (("format",), 999, "found a run in format 999, expected 2: begin it anew"),
    (("format",), True, "found a run in format True, expected 2"),
    (("facts",), 1, "not the state of a training run"),
]


def resumed(folder, **options):
    torch.manual_seed(8)
    program = vae()
    options = {"num_epochs": 3, "scheduler": cosine} | options
    return program, lambda: fit(program, X, checkpoint=folder, resume=True, **options)


def check_refused(folder, message):
    program, go_on = resumed(folder)
    before, random, files = weights(program), torch.get_rng_state(), (folder / STATE).read_bytes()
    with pytest.raises(ValueError, match=f"^{folder / STATE}: .*{message}"):
        go_on()
    assert same(weights(program), before) and torch.equal(torch.get_rng_state(), random)
    assert (folder / STATE).read_bytes() == files


@pytest.mark.parametrize(("edits", "message"), TENSORS)
def test_edited_tensors_are_refused(edits, message, state, tmp_path):
    tensors, document = state
    edited = {name: value for name, value in (tensors | edits).items() if value is not None}
    write_tensors(tmp_path / STATE, edited, {"run": json.dumps(document)})
    check_refused(tmp_path, message)


@pytest.mark.parametrize(("path", "value", "message"), DOCUMENT)
def test_edited_numbers_are_refused(path, value, message, state, tmp_path):
    tensors, document = state[0], json.loads(json.dumps(state[1]))
    into(document, path, value)
    write_tensors(tmp_path / STATE, tensors, {"run": json.dumps(document)})
    check_refused(tmp_path, message)


def test_a_state_that_was_changed_on_disk(state, tmp_path):
    write_tensors(tmp_path / STATE, state[0], {"run": json.dumps(state[1])})
    content = bytearray((tmp_path / STATE).read_bytes())
    content[-3] ^= 1
    (tmp_path / STATE).write_bytes(content)
    check_refused(tmp_path, "found another content than was written")


@pytest.mark.parametrize("text", ["[" * 10**5, "{", "3", '{"facts": {}}'])
def test_text_that_is_no_state(text, state, tmp_path):
    write_tensors(tmp_path / STATE, state[0], {"run": text})
    check_refused(tmp_path, "")


def test_a_file_of_before_resumes_to_the_same_weights(state, tmp_path):
    ends = []
    for name in ("now", "before"):
        (tmp_path / name).mkdir()
        tensors, document = state[0], json.loads(json.dumps(state[1]))
        if name == "before":  # it had neither a checksum nor the list of slots
            del document["optimizer"]["slots"]
            save_file(tensors, tmp_path / name / STATE, {"run": json.dumps(document)})
        else:
            write_tensors(tmp_path / name / STATE, tensors, {"run": json.dumps(document)})
        program, go_on = resumed(tmp_path / name)
        assert len(go_on().records) == 3
        ends.append(weights(program))
    assert same(*ends)


def test_more_steps_in_an_epoch_than_there_are_data(state, tmp_path):
    tensors, document = state[0], json.loads(json.dumps(state[1]))
    document["position"] |= {"epoch_step": 9, "step": 17, "count": 54}
    write_tensors(tmp_path / STATE, tensors, {"run": json.dumps(document)})
    with pytest.raises(ValueError, match="data: found 4 batches, expected the 9 that the epoch has had"):
        resumed(tmp_path)[1]()


def test_a_folder_that_goes_in_mid_run_is_named(tmp_path):
    def empty(record):
        for path in (tmp_path / "run").iterdir():
            path.unlink()
        (tmp_path / "run").rmdir()

    with pytest.raises(
        FileNotFoundError, match=f"checkpoint: found no {STATE} in {tmp_path / 'run'}, expected the one"
    ):
        fit(vae(), X, checkpoint=tmp_path / "run", callbacks=[empty])
    pyro_vae.load(tmp_path / "run")  # the weights are in it again
