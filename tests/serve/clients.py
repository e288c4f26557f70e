#!/usr/bin/env python3
"""Clients against ds4 serve: the openai package, curl's way of speaking, and those that misbehave.

Usage: clients.py PROGRAM [--seconds N] [--clients N] [--mutations N] [--model DIR]
Needs the package openai, as scripts/test-server installs it. --seconds: of load by so many --clients;
--mutations: of HTTP requests, none of which may do harm.
"""
import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import openai

arguments = argparse.ArgumentParser()
arguments.add_argument("program")
arguments.add_argument("--model", default=os.path.join(os.path.dirname(__file__), "../../models/austen"))
arguments.add_argument("--seconds", type=float, default=10)
arguments.add_argument("--clients", type=int, default=16)
arguments.add_argument("--mutations", type=int, default=1000)
arguments = arguments.parse_args()


class Server:
    processes = []

    def __init__(self, *options, model=None):
        self.process = subprocess.Popen(
            [arguments.program, "serve", "--model", model or arguments.model, "--port", "0", *options],
            stderr=subprocess.PIPE, text=True)
        Server.processes.append(self.process)
        line = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0)

    def metric(self, name):
        text = urllib.request.urlopen(self.url + "/metrics", timeout=30).read().decode()
        return int(re.search(rf"^ds4_{name} (\d+)$", text, re.M)[1])

    def expect_idle(self):
        """Behind clients that have left: their answers end within some seconds."""
        for _ in range(100):
            if self.metric("requests_running") == 0:
                return
            time.sleep(0.05)
        assert self.metric("requests_running") == 0

    def memory(self):
        status = open(f"/proc/{self.process.pid}/status").read()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024

    def stop(self, how=signal.SIGTERM):
        start = time.monotonic()
        self.process.send_signal(how)
        code = self.process.wait(timeout=60)
        rest = self.process.stderr.read()
        assert how == signal.SIGKILL or code == 0, (code, rest)
        return time.monotonic() - start


def raw(port, data, wait=5.0):
    """What a server answers to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionError):
            pass
        return answer


def check_openai(server):
    client = server.client
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model
    say = dict(model=model, messages=[{"role": "user", "content": "She was not"}], seed=1)
    whole = client.chat.completions.create(**say, max_tokens=20)
    assert whole.choices[0].finish_reason in ("length", "stop")
    assert whole.usage.completion_tokens <= 20
    text, usage = "", None
    for chunk in client.chat.completions.create(**say, max_tokens=20, stream=True,
                                                stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
    assert text == whole.choices[0].message.content, (text, whole)
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1
    several = client.chat.completions.create(**say, max_tokens=5, n=3, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len(several.choices[2].logprobs.content[0].top_logprobs) == 2
    assert text.startswith(several.choices[0].message.content)
    schema = {"type": "object", "properties": {"name": {"enum": ["Emma", "Anne"]}, "age": {"type": "boolean"}},
              "required": ["name", "age"], "additionalProperties": False}
    formed = client.chat.completions.create(**say, max_tokens=300, response_format={
        "type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}})
    person = json.loads(formed.choices[0].message.content)
    assert person["name"] in ("Emma", "Anne") and isinstance(person["age"], bool)
    stopped = client.chat.completions.create(**say, max_tokens=20, stop=[text[5:9]])
    assert stopped.choices[0].message.content == text[:text.index(text[5:9])]
    assert stopped.choices[0].finish_reason == "stop"
    for wrong in (dict(temperature=3), dict(n=99), dict(stop=""), dict(logprobs=False, top_logprobs=1),
                  dict(messages=[]), dict(extra_body={"repetition_penalty": 2})):
        try:
            client.chat.completions.create(**{**say, **wrong})
            raise AssertionError(wrong)
        except openai.BadRequestError as error:
            assert error.body["type"] == "invalid_request_error"
    try:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "word " * 20000}])
        raise AssertionError("too long")
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded"
    try:
        client.models.retrieve("another")
        raise AssertionError("no such model")
    except openai.NotFoundError:
        pass
    try:  # the client leaves, and its answer ends
        client.with_options(timeout=0.3).chat.completions.create(**say, max_tokens=15000)
        raise AssertionError("no timeout")
    except openai.APITimeoutError:
        pass
    server.expect_idle()
    scored = client.completions.create(model=model, prompt="She was not", max_tokens=0, echo=True, logprobs=1)
    assert scored.choices[0].text == "She was not"
    assert scored.choices[0].logprobs.token_logprobs[0] is None
    both = client.completions.create(model=model, prompt=["She", "He"], max_tokens=4, seed=3)
    assert len(both.choices) == 2


def check_http(server):
    port = server.port
    assert raw(port, b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").endswith(b'{"status": "ok"}')
    assert b"<!doctype html>" in raw(port, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert b"Access-Control-Allow-Origin: *" in raw(
        port, b"OPTIONS /v1/chat/completions HTTP/1.1\r\nConnection: close\r\n\r\n")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nConnection: close\r\n"
    for body in (b"", b"{", b"[]", b"\x00", b'{"messages": 1}', b"\xff" * 100, b"[" * 100000):
        answer = raw(port, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert b" 400 " in answer.split(b"\r\n")[0], (body[:20], answer[:200])
    assert b" 404 " in raw(port, b"GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert b" 404 " in raw(port, b"DELETE /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert b" 413 " in raw(port, head + b"Content-Length: 99999999999\r\n\r\n")[:20]
    assert b" 415 " in raw(port, head + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx")[:20]
    for nonsense in (b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01" * 100, b"GET / HTTP/9.9\r\n\r\n",
                     b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20000):
        raw(port, nonsense, 1.0)
    assert raw(port, b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").endswith(b'{"status": "ok"}')


def requests():
    """Whole requests of all kinds, for mutations of them."""
    chat = b'{"messages": [{"role": "user", "content": "She"}], "max_tokens": 1}'
    text = b'{"prompt": "She", "max_tokens": 1, "stream": true}'
    for body, path in ((chat, b"chat/completions"), (text, b"completions")):
        head = b"POST /v1/" + path + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        yield head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        yield head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
        yield head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for path in (b"/", b"/health", b"/metrics", b"/v1/models", b"/v1/models/austen?a=%20b"):
        yield b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nRange: bytes=0-3\r\nCookie: a=b\r\n\r\n"
    yield b"OPTIONS /v1/completions HTTP/1.1\r\nOrigin: http://x\r\nAccess-Control-Request-Method: POST\r\n\r\n"


def mutated(draw, request, others):
    """A request with some bytes changed, lost, doubled, or taken from another."""
    request = bytearray(request)
    for _ in range(draw.randint(1, 4)):
        at = draw.randint(0, len(request))
        end = min(len(request), at + draw.choice((1, 2, 4, 16, 64)))
        other = draw.choice(others)
        begin = draw.randint(0, len(other))
        request[at:end] = draw.choice((
            b"", bytes(draw.randint(0, 255) for _ in range(end - at)), bytes(request[at:end]) * 2,
            other[begin:begin + 32], b"\r\n", b"99999999999999999999", b"-1", b"%00", b"\0", b"A" * 9000))
    return bytes(request)


def check_mutations(server, count):
    """Requests that are none, on connections that end behind them."""
    whole, threads = list(requests()), 8
    statuses, lock = {}, threading.Lock()

    def client(number):
        draw = random.Random(number)
        for _ in range(count // threads):
            answer = b""
            try:
                with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                    connection.sendall(mutated(draw, draw.choice(whole), whole))
                    connection.shutdown(socket.SHUT_WR)
                    while piece := connection.recv(65536):
                        answer += piece
            except ConnectionError:
                pass
            status = answer[9:12].decode("ascii", "replace") if answer.startswith(b"HTTP/1.1 ") else "none"
            with lock:
                statuses[status] = statuses.get(status, 0) + 1

    clients = [threading.Thread(target=client, args=(i,)) for i in range(threads)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    server.expect_idle()
    assert sum(statuses.values()) == count // threads * threads
    assert not any(status.startswith("5") and status != "503" and status != "501" for status in statuses), statuses
    print(f"{count} mutations of requests: answered by {dict(sorted(statuses.items()))}")


def check_turns(server):
    """Ten turns: no token of a prompt is taken in twice, and the first token comes as fast."""
    messages, times = [], []
    before = server.metric("prompt_tokens_prefilled_total")
    seen = 0
    for turn in range(10):
        messages.append({"role": "user", "content": f"And what did Elizabeth say to number {turn}?"})
        start = time.monotonic()
        answer = server.client.chat.completions.create(
            model="m", messages=messages, max_tokens=40, seed=turn, stream=True,
            stream_options={"include_usage": True})
        text, first = "", None
        for chunk in answer:
            if chunk.choices and (chunk.choices[0].delta.content or chunk.choices[0].finish_reason):
                first = first or time.monotonic() - start
                text += chunk.choices[0].delta.content or ""
            usage = chunk.usage
        times.append(first)
        messages.append({"role": "assistant", "content": text})
        seen += usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens
    prefilled = server.metric("prompt_tokens_prefilled_total") - before
    assert prefilled == seen, (prefilled, seen)
    print(f"10 turns: prompt of the last {usage.prompt_tokens} tokens, "
          f"{usage.prompt_tokens_details.cached_tokens} cached; taken in {prefilled} in all; first token after "
          f"{1000 * times[1]:.0f} ms in turn 2, {1000 * times[9]:.0f} ms in turn 10")
    return messages[:-1], usage


def check_common(server):
    """Eight clients whose prompts have the same beginning of some 4,000 tokens, at once."""
    common = " ".join(f"It was the {i}th day of the visit." for i in range(520))
    before = server.metric("prompt_tokens_prefilled_total")
    results = [None] * 8

    def ask(i):
        results[i] = server.client.completions.create(
            model="m", prompt=f"{common} Now number {i} said", max_tokens=4, seed=i).usage

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    prefilled = server.metric("prompt_tokens_prefilled_total") - before
    total = sum(usage.prompt_tokens for usage in results)
    print(f"8 clients: prompts of {results[0].prompt_tokens} tokens, {total} in all; {prefilled} taken in")
    assert prefilled < results[0].prompt_tokens + 8 * 10, (prefilled, total)
    return common


def check_restart(folder):
    options = ("--cache-disk", folder, "--cache-memory", "1")
    server = Server(*options)
    messages, usage = check_turns(server)
    common = check_common(server)
    for _ in range(600):  # states are written while nothing else is to do
        if server.metric("cache_disk_states") >= server.metric("cache_memory_states"):
            break
        time.sleep(0.1)
    server.stop(signal.SIGKILL)
    server = Server(*options)
    again = server.client.chat.completions.create(model="m", messages=messages, max_tokens=40, seed=9).usage
    assert again.prompt_tokens == usage.prompt_tokens
    assert again.prompt_tokens_details.cached_tokens == again.prompt_tokens - 1, again
    usage = server.client.completions.create(model="m", prompt=common + " Now number 9 said", max_tokens=4).usage
    new = usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens
    assert new < 10, usage
    print(f"after kill -9 and a restart: {again.prompt_tokens_details.cached_tokens} of {again.prompt_tokens} and "
          f"{usage.prompt_tokens_details.cached_tokens} of {usage.prompt_tokens} tokens from the disk")
    server.stop()


def chat_model(folder):
    """The model that comes with ds4, with a tokenizer that has all tokens of the chat encoding: " the" ends the
    reasoning and "." the turn."""
    os.makedirs(folder)
    for name in ("config.json", "model.safetensors"):
        os.symlink(os.path.realpath(os.path.join(arguments.model, name)), os.path.join(folder, name))
    with open(os.path.join(arguments.model, "tokenizer.json")) as file:
        tokenizer = json.load(file)
    vocab, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    the, stop = vocab["\u0120the"], vocab["."]
    vocab["\u0120the"], vocab["."], vocab["<｜end▁of▁sentence｜>"] = 2, 1, stop
    del vocab["<｜▁pad▁｜>"]
    for rare in (2047, 2046):
        token = next(text for text, number in vocab.items() if number == rare)
        merges[:] = [merge for merge in merges if "".join(merge) != token]
        del vocab[token]
    added = tokenizer["added_tokens"]
    added[1]["id"] = stop
    added[2].update(content="<think>", id=2047)
    added.append({**added[2], "content": "</think>", "id": the})
    added.append({**added[2], "content": "｜DSML｜", "id": 2046})
    with open(os.path.join(folder, "tokenizer.json"), "w") as file:
        json.dump(tokenizer, file)


def check_chat(server):
    """Reasoning, tools and their history; turns that come back as texts are known by their ids."""
    tools = [{"type": "function", "function": {"name": "weather", "description": "x", "parameters": {"type": "object"}}}]
    messages, before = [], 0
    for turn in range(6):
        messages.append({"role": "user", "content": f"Number {turn}: what did she say of him?"})
        answer = server.client.chat.completions.create(
            model="m", messages=messages, tools=tools, max_tokens=600, seed=turn)
        message, usage = answer.choices[0].message, answer.usage
        new = usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens
        if turn > 0 and ended:  # the message, and the tokens around it
            assert new < 40, usage
            assert usage.prompt_tokens_details.cached_tokens >= before - 1, (usage, before)
        ended = answer.choices[0].finish_reason == "stop"
        before = usage.total_tokens
        assert usage.completion_tokens_details.reasoning_tokens > 0
        messages.append({"role": "assistant", "content": message.content,
                         "reasoning_content": message.reasoning_content})
    messages += [
        {"role": "user", "content": "And the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{\"at\": \"Bath\"}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"}]
    reasoning = content = ""
    for chunk in server.client.chat.completions.create(model="m", messages=messages, tools=tools, max_tokens=200,
                                                       seed=1, stream=True):
        delta = chunk.choices[0].delta
        reasoning += getattr(delta, "reasoning_content", None) or ""
        content += delta.content or ""
    assert reasoning
    off = server.client.chat.completions.create(model="m", messages=messages, reasoning_effort="none", max_tokens=50)
    assert off.usage.completion_tokens_details.reasoning_tokens == 0
    required = server.client.chat.completions.create(
        model="m", messages=messages, tools=tools, tool_choice="required", reasoning_effort="none", max_tokens=30)
    assert required.choices[0].finish_reason in ("length", "stop", "tool_calls")
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    for seed in range(20):  # behind the reasoning alone, in which a turn may end, too
        formed = server.client.chat.completions.create(
            model="m", messages=messages, max_tokens=2000, seed=seed,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}).choices[0]
        if formed.finish_reason == "stop" and formed.message.content:
            break
    assert isinstance(json.loads(formed.message.content)["a"], bool), formed
    print(f"a chat with reasoning and tools: {messages and usage.prompt_tokens} tokens in the last prompt, "
          f"{new} of them new; then a result, a required call and a schema")


def check_load(server, seconds):
    """Clients of all kinds; every whole answer is that of a lone run."""
    end = time.monotonic() + seconds
    answers, failures, counts = {}, [], {"whole": 0, "left": 0, "slow": 0, "broken": 0, "busy": 0}
    lock = threading.Lock()

    def request(seed, draw):
        words = " ".join(draw.choice(["She", "was", "Elizabeth", "not", "Mr. Darcy", "said"])
                         for _ in range(draw.randint(1, 120)))
        return dict(model="m", messages=[{"role": "user", "content": words}], seed=seed,
                    max_tokens=draw.randint(1, 80), temperature=draw.choice([0, 1]))

    def client(number):
        draw = random.Random(number)
        while time.monotonic() < end:
            seed = draw.randint(0, 10**6)
            body = request(seed, draw)
            kind = draw.choice(["whole"] * 6 + ["left", "slow", "broken"])
            try:
                if kind == "whole":
                    text = server.client.chat.completions.create(**body).choices[0].message.content
                    with lock:
                        answers[json.dumps(body)] = text
                elif kind == "left":
                    stream = server.client.chat.completions.create(**{**body, "max_tokens": 2000}, stream=True)
                    for _, _chunk in zip(range(draw.randint(0, 5)), stream):
                        pass
                    stream.close()
                elif kind == "slow":
                    for _ in server.client.chat.completions.create(**body, stream=True):
                        time.sleep(0.02)
                else:
                    with socket.create_connection(("127.0.0.1", server.port), timeout=1) as connection:
                        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 500\r\n\r\n{"[
                            :draw.randint(1, 80)])
                        time.sleep(draw.random())
                with lock:
                    counts[kind] += 1
            except openai.APIStatusError as error:
                with lock:
                    if error.status_code == 503:
                        counts["busy"] += 1
                    else:
                        failures.append(str(error))
            except Exception as error:  # noqa: BLE001
                failures.append(repr(error))

    memory = server.memory()
    threads = [threading.Thread(target=client, args=(i,)) for i in range(arguments.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]
    time.sleep(1)
    assert server.metric("requests_running") == 0
    lone = Server("--parallel", "1", "--cache-memory", "0")
    sample = random.Random(1).sample(sorted(answers), min(len(answers), 200))
    for body in sample:
        text = lone.client.chat.completions.create(**json.loads(body)).choices[0].message.content
        assert text == answers[body], body
    lone.stop()
    print(f"load: {arguments.clients} clients for {seconds:.0f} s: {counts}; {len(sample)} answers are bitwise "
          f"those of a lone run; memory beside files {memory / 1e6:.0f} MB before, {server.memory() / 1e6:.0f} after")


def main():
    server = Server("--cache-memory", "0.2")
    try:
        run(server)
    finally:
        for process in Server.processes:
            process.kill()


def run(server):
    check_openai(server)
    check_http(server)
    check_mutations(server, arguments.mutations)
    check_load(server, arguments.seconds)

    def wait_for_a_long_answer():
        try:
            list(server.client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "x"}], max_tokens=15000, stream=True))
        except openai.APIError:  # its end
            pass

    threading.Thread(target=wait_for_a_long_answer, daemon=True).start()
    time.sleep(0.5)
    took = server.stop()
    print(f"SIGTERM, with an answer running: ended after {took:.1f} s")
    assert took < 25
    with tempfile.TemporaryDirectory() as folder:
        chat_model(os.path.join(folder, "model"))
        server = Server(model=os.path.join(folder, "model"))
        check_chat(server)
        server.stop()
        check_restart(os.path.join(folder, "cache"))
        key = os.path.join(folder, "key")
        with open(key, "w") as file:
            file.write("secret\n")
        server = Server("--api-key-file", key)
        try:
            server.client.models.list()
            raise AssertionError("no key")
        except openai.AuthenticationError:
            pass
        server.client.with_options(api_key="secret").models.list()
        server.stop()
    refused = subprocess.run([arguments.program, "serve", "--model", arguments.model, "--host", "0.0.0.0"],
                             capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1 and "--api-key-file" in refused.stderr, refused
    print("all is well")


if __name__ == "__main__":
    sys.exit(main())
