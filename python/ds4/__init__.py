"""ds4: DeepSeek-V4 models on the CPU, for numerics checks and tests.

    import ds4
    m = ds4.load("models/austen")
    print(*m.generate("It is a truth universally acknowledged", max_tokens=40), sep="")

docs/python.md has the rest.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ._ds4 import (
    Comparison,
    Error,
    Sampler,
    StageCheck,
    State,
    StreamDecoder,
    Tokenizer,
    __version__,
    plan,
    stages,
)
from . import _ds4
from ._ds4 import Model
from ._names import to_release

__all__ = [
    "Comparison",
    "Error",
    "Model",
    "Sampler",
    "StageCheck",
    "State",
    "StreamDecoder",
    "Tokenizer",
    "__version__",
    "add",
    "compare",
    "encode_chat",
    "generate",
    "gradients",
    "load",
    "plan",
    "stages",
]


def _config_json(config):
    """The text of a config.json: of a dict, of an object with to_dict() as transformers' have, or of
    a file or its folder."""
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if isinstance(config, dict):
        return json.dumps(config)
    path = os.fspath(config)
    if os.path.isdir(path):
        path = os.path.join(path, "config.json")
    with open(path, encoding="utf-8") as file:
        return file.read()


def _array(value):
    """What of a tensor can be read in place: a torch tensor without its gradient."""
    if hasattr(value, "detach"):
        value = value.detach()
        value = value.cpu() if hasattr(value, "cpu") else value
        return value.contiguous() if hasattr(value, "contiguous") else value
    return value


def load(path: str | os.PathLike | None = None, *, backend: str = "simd",
         threads: int | None = None, exact: bool = False, memory_budget: float | None = None,
         config: Any = None, tensors: Mapping[str, Any] | None = None) -> Model:
    """Loads a model: the checkpoint folder `path`, or `config` and `tensors` from memory.

    backend: "simd" or "reference". threads: one per core that the process may use unless told. exact:
    activations and states in float32 throughout. memory_budget: GB of weights to keep in memory.
    config: a dict, an object with to_dict(), or a path. tensors: {name: array}, e.g. a state_dict,
    under the release's names or transformers'. The configuration has to be compiled: see add().
    Raises Error.
    """
    if (path is None) == (config is None or tensors is None):
        raise Error("ds4: load: expected a path, or config and tensors")
    if path is not None:
        return _ds4.load(os.fspath(path), backend, threads, exact, memory_budget)
    arrays = {name: _array(value) for name, value in to_release(tensors).items()}
    return _ds4.load_from_memory(_config_json(config), arrays, backend, threads, exact,
                                 memory_budget)


def add(config: Any, *, backends: Sequence[str] = ("simd",), trainable: bool = False,
        name: str = "python_model") -> list[str]:
    """Compiles a configuration for load(), once: it stays in the user's cache folder.

    Takes the system's C++ compiler, and about a minute per backend. config: a dict, an object with
    to_dict(), or a path. trainable: for gradients() as well. Returns the files. Raises Error.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "config.json")
        with open(file, "w", encoding="utf-8") as out:
            out.write(_config_json(config))
        return [_ds4.add(file, name, backend, trainable) for backend in backends]


def generate(model: Model, prompt: str | Sequence[int], *, max_tokens: int = 256,
             temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, seed: int | None = None,
             draft: int | None = None) -> Iterator[str]:
    """Continues a text, or token ids, and yields the pieces of text as they come.

    temperature 0 takes the likeliest token. draft: tokens that the checkpoint's drafter guesses for
    each pass, 0: as many as pay; None: no drafts. Also Model.generate().
    """
    tokenizer = Tokenizer(model.path)
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else [int(i) for i in prompt]
    if isinstance(prompt, str) and model.bos_token_id is not None:
        ids.insert(0, model.bos_token_id)
    ends = set(model.eos_token_ids)
    never = [i for i in tokenizer.ids_without_token(model.vocab_size) if i not in ends]
    sampler = Sampler(temperature, top_p, top_k,
                      random.getrandbits(63) if seed is None else seed, never)
    decoder = StreamDecoder(tokenizer)
    state = model.new_state()
    if draft is not None:
        state.keep_drafts(draft)
    logits = model.prefill(state, ids)
    room = min(max_tokens, model.max_position_embeddings - len(ids) + 1)
    following = [sampler(logits)] if room > 0 else []
    while following:
        token = following[-1]
        for chosen in following:
            if chosen in ends or room == 0:
                yield decoder.finish()
                return
            room -= 1
            yield decoder.push(chosen)
        if room == 0:
            break
        if draft is None:
            following = [sampler(model.decode(state, token))]
        else:
            following = model.decode_with_drafts(state, token, sampler, room)
    yield decoder.finish()


def compare(model: Model, ids: Any, given: Mapping[str, Any], *,
            tolerance: float = _ds4.FLOAT32_TOLERANCE) -> Comparison:
    """Compares stages that another program has computed, {name: array}, with the model's.

    Arrays have a row per token; a batch of one may be in front. The comparison is true if every stage
    is within the tolerance, and prints which is the first that is not. Raises Error.
    """
    return _ds4.compare(model, ids, {name: _array(value) for name, value in given.items()},
                        tolerance)


def gradients(model: Model, ids: Any) -> tuple[float, dict[str, Any]]:
    """The mean next-token cross-entropy of token ids, or of a list of several sequences, and its
    gradients: (loss, {name: array}), under the checkpoint's names. Raises Error."""
    several = isinstance(ids, (list, tuple)) and len(ids) > 0 and not isinstance(ids[0], int)
    return _ds4.gradients(model, list(ids) if several else [ids])


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], *,
                thinking: bool = True, effort: str | None = None,
                tools: Sequence[Mapping[str, Any]] | None = None,
                keep_reasoning: bool = False) -> list[int]:
    """The ids of a chat in the release's encoding, up to what asks for the assistant's next turn.

    messages: [{"role": ..., "content": ...}, ...]; tools as in requests to servers; effort: "low",
    "high" or "max". Raises Error.
    """
    request = {"messages": list(messages), "thinking": thinking, "keep_reasoning": keep_reasoning}
    if effort is not None:
        request["effort"] = effort
    if tools:
        request["tools"] = list(tools)
    return _ds4.encode_chat(tokenizer, json.dumps(request))
