"""The module's own tests, on models/austen."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import ds4
from conftest import AUSTEN, ROOT

IDS = [0, 300, 17, 42, 1999, 5, 8, 13, 21, 34]


def failing(kind, text, call, *args, **kwargs):
    with pytest.raises(ds4.Error) as caught:
        call(*args, **kwargs)
    assert caught.value.kind == kind
    assert text in str(caught.value)
    assert str(caught.value).startswith("ds4: ") and "\n" not in str(caught.value)


def test_prefill_and_decode_give_float32_logits(model):
    state = model.new_state()
    logits = model.prefill(state, IDS)
    assert logits.dtype == np.float32 and logits.shape == (model.vocab_size,)
    assert state.position == len(IDS)
    before = logits.copy()
    following = model.decode(state, int(logits.argmax()))
    assert following.shape == logits.shape and not np.array_equal(following, logits)
    assert np.array_equal(before, logits)  # the array is the caller's


def test_ids_may_be_lists_and_arrays(simd):
    expected = simd.prefill(simd.new_state(), IDS)
    for ids in [tuple(IDS), np.array(IDS), np.array(IDS, np.int32), np.array([IDS])]:
        assert np.array_equal(simd.prefill(simd.new_state(), ids), expected)
    for wrong in [[], [-1], [simd.vocab_size], [2**40], ["a"], np.array(IDS, float),
                  np.array([IDS, IDS]), [1.5]]:
        state = simd.new_state()
        failing("input", "", simd.prefill, state, wrong)
        assert state.position == 0


def test_states_are_values(model):
    state = model.new_state()
    model.prefill(state, IDS)
    fork = state.fork()
    one = model.decode(state, 9)
    assert fork.position == len(IDS)
    assert np.array_equal(model.decode(fork, 9), one)
    state.rollback(1)
    assert np.array_equal(model.decode(state, 9), one)
    failing("input", "rollback", state.rollback, 10**6)


def test_states_are_saved_and_loaded(model, tmp_path):
    state = model.new_state()
    model.prefill(state, IDS)
    state.save(IDS, str(tmp_path / "state"))
    loaded, ids = model.load_state(str(tmp_path / "state"))
    assert ids == IDS
    assert np.array_equal(model.decode(loaded, 3), model.decode(state, 3))
    failing("file", "", model.load_state, str(tmp_path / "none"))


def test_a_batch_gives_the_logits_of_every_token(simd):
    one, two = simd.new_state(), simd.new_state()
    rows = simd.forward([(one, IDS), (two, IDS[:4])])
    assert rows.shape == (len(IDS) + 4, simd.vocab_size)
    assert np.array_equal(rows[len(IDS) - 1], simd.prefill(simd.new_state(), IDS))
    failing("input", "", simd.forward, [(one, [1]), (one, [2])])
    failing("input", "", simd.forward, [])


def test_generate_streams_a_text(simd):
    pieces = list(simd.generate("It is a truth", max_tokens=12, temperature=0))
    assert len(pieces) > 5
    tokenizer = ds4.Tokenizer(str(AUSTEN))
    ids = [simd.bos_token_id] + tokenizer.encode("It is a truth")
    state = simd.new_state()
    logits = simd.prefill(state, ids)
    text = []
    for _ in range(12):
        text.append(int(logits.argmax()))
        logits = simd.decode(state, text[-1])
    assert "".join(pieces) == tokenizer.decode(text)
    drafted = "".join(simd.generate("It is a truth", max_tokens=12, temperature=0, draft=2))
    assert drafted == "".join(pieces)
    seeded = ["".join(simd.generate("She", max_tokens=8, seed=s)) for s in (1, 1)]
    assert seeded[0] == seeded[1]


def test_stages_have_the_golden_names(model):
    stages = ds4.stages(model, IDS)
    assert list(stages)[-1] == "logits"
    assert stages["layers.3.attn.output"].shape == (len(IDS), 192)
    assert stages["layers.0.attn.q_rope"].shape == (len(IDS), 4, 64)
    assert stages["layers.2.mlp.router_indices"].dtype == np.int32
    assert np.array_equal(stages["logits"][-1], model.prefill(model.new_state(), IDS))
    some = ds4.stages(model, IDS, layers=[1, 3], names=["attn.output", "final_norm"])
    assert list(some) == ["layers.1.attn.output", "layers.3.attn.output", "final_norm"]


def test_compare_names_the_first_stage_that_differs(model):
    stages = ds4.stages(ds4.load(AUSTEN, backend="simd", exact=True), IDS)
    same = ds4.compare(model, IDS, stages)
    assert same and same.first is None and len(same.stages) == len(stages)
    stages["layers.4.mlp.input"][3, 5] += 1
    stages["layers.2.attn.output"] = stages["layers.2.attn.output"].astype(np.float64)
    stages["layers.2.attn.output"][7, 0] += 1
    other = ds4.compare(model, IDS, stages)
    assert not other
    assert other.first.name == "layer 2 attn.output"
    assert str(other).startswith("first stage past the tolerance: layer 2 attn.output, token 7: error ")
    heads_first = stages["layers.0.attn.q_rope"].transpose(1, 0, 2)[None].copy()
    assert ds4.compare(model, IDS, {"layers.0.attn.q_rope": heads_first})
    failing("input", "layers.77", ds4.compare, model, IDS, {"layers.77.attn.output": np.zeros(3)})
    failing("input", "", ds4.compare, model, IDS, {"layers.1.attn.output": np.zeros((3, 3))})


def test_gradients_are_those_of_the_loss(simd):
    ids = IDS * 2
    loss, gradients = ds4.gradients(simd, ids)
    rows = simd.forward([(simd.new_state(), ids)]).astype(np.float64)[:-1]
    rows -= rows.max(axis=1, keepdims=True)
    nll = np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(ids) - 1), ids[1:]]
    assert abs(loss - nll.mean()) < 1e-2
    assert all(np.isfinite(g).all() for g in gradients.values())
    assert any(np.abs(g).max() > 0 for g in gradients.values())
    both, _ = ds4.gradients(simd, [ids, ids])
    assert abs(both - loss) < 1e-5
    failing("input", "", ds4.gradients, simd, [1])


def read_safetensors(file):
    """The tensors of a file of float32 and int64, and of bfloat16 as float32."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:end]).items():
        if name == "__metadata__":
            continue
        begin, stop = entry["data_offsets"]
        part = data[end + begin:end + stop]
        if entry["dtype"] == "BF16":
            wide = np.frombuffer(part, np.uint16).astype(np.uint32) << 16
            values = wide.view(np.float32)
        else:
            values = np.frombuffer(part, {"F32": np.float32, "I64": np.int64}[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def test_a_model_from_memory_is_that_of_the_files():
    tensors = {}
    for file in AUSTEN.glob("*.safetensors"):
        tensors.update(read_safetensors(file))
    config = json.loads((AUSTEN / "config.json").read_text())
    made = ds4.load(config=config, tensors=tensors, exact=True)
    files = ds4.load(AUSTEN, exact=True)
    logits = made.prefill(made.new_state(), IDS)
    expected = files.prefill(files.new_state(), IDS)
    assert np.abs(logits - expected).max() < 1e-3 * expected.std()
    some = dict(list(tensors.items())[1:])
    failing("file", "missing", ds4.load, config=config, tensors=some)


def test_plan_knows_the_releases():
    assert ds4.plan("flash")["parameters"] > 2e11
    assert ds4.plan(str(AUSTEN), context=100)["parameters"] < 1e7
    failing("input", "", ds4.plan, str(AUSTEN), context=10**9)


def test_tokenizer_and_chat():
    tokenizer = ds4.Tokenizer(str(ROOT / "tests/data/tokenizer"))
    ids = tokenizer.encode("It is a truth.")
    assert tokenizer.decode(ids) == "It is a truth."
    chat = ds4.encode_chat(tokenizer, [{"role": "user", "content": "Hello"}], thinking=False)
    assert tokenizer.decode(chat).endswith("</think>")
    assert "Hello" in tokenizer.decode(chat)
    failing("input", "", ds4.encode_chat, tokenizer, [{"role": "nobody", "content": "x"}])
    failing("file", "", ds4.Tokenizer, "no/such/place")


def test_errors_are_one_type_with_one_line(tmp_path):
    failing("file", "cannot open", ds4.load, tmp_path)
    failing("input", "backend", ds4.load, AUSTEN, backend="abacus")
    failing("input", "threads", ds4.load, AUSTEN, threads=0)
    config = json.loads((AUSTEN / "config.json").read_text())
    config["hidden_size"] *= 2
    failing("input", "hidden_size: found 384, expected 192", ds4.load, config=config, tensors={})
    failing("input", "expected a path, or config and tensors", ds4.load)
    with pytest.raises(ds4.Error):
        ds4.load(config={}, tensors={"x": "no array"})


def test_threads_of_python_may_share_a_model(simd):
    expected = simd.prefill(simd.new_state(), IDS)
    results = []

    def work():
        for _ in range(5):
            results.append(np.array_equal(simd.prefill(simd.new_state(), IDS), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20 and all(results)


def test_interrupts_end_a_pass():
    program = (
        "import os, signal, sys, threading, ds4\n"
        "m = ds4.load(sys.argv[1], backend='reference')\n"
        "s = m.new_state()\n"
        "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n"
        "    m.prefill(s, [7] * 4000)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', s.position)\n")
    done = subprocess.run([sys.executable, "-c", program, str(AUSTEN)], capture_output=True,
                          text=True)
    assert done.stdout == "interrupted 0\n", done


def test_random_calls_do_no_harm(model):
    """Prefill, decode, fork, rollback with valid and invalid arguments."""
    random = np.random.default_rng(3)
    states = [model.new_state(int(random.integers(0, 20)))]
    errors = 0
    for _ in range(int(os.environ.get("DS4_RANDOM_CALLS", 300))):
        state = states[random.integers(len(states))]
        before = state.position
        try:
            match random.integers(5):
                case 0:
                    model.prefill(state, random.integers(-2, 2050, random.integers(0, 9)))
                case 1:
                    model.decode(state, int(random.integers(-2, 2050)))
                case 2:
                    state.rollback(int(random.integers(0, 12)))
                case 3:
                    states = [s for s in states[-4:] if s.position < 400] + [state.fork()]
                case 4:
                    states.append(model.new_state(int(random.integers(0, 20))))
        except ds4.Error:
            errors += 1
            assert state.position == before
    assert errors > 0
