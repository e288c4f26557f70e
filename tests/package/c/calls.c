/* Calls that have to fail do, with their status and a line; states fork, roll back and are saved. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ds4/c/ds4.h>

static int failures = 0;

static void expect(int holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "%s: %s\n", what, ds4_error());
  ++failures;
}

static int stop_at_once(void* user) {
  ++*(int*)user;
  return 1;
}

static void count_values(void* user, size_t layer, const char* stage, const float* values,
                         size_t count) {
  if (layer == 3 && strcmp(stage, "attn.output") == 0 && values != NULL) *(size_t*)user += count;
}

int main(int argc, char** argv) {
  ds4_options options = DS4_OPTIONS;
  ds4_watch watch = {NULL, NULL, NULL, NULL};
  ds4_model* model = NULL;
  ds4_state* state = NULL;
  ds4_state* fork = NULL;
  ds4_sampler* sampler = NULL;
  ds4_tokenizer* tokenizer = NULL;
  ds4_sequence batch[2];
  int32_t ids[4] = {0, 5, 7, 11};
  int32_t restored[4] = {0, 0, 0, 0};
  int32_t bad = -1;
  int32_t id;
  size_t count = 0, seen = 0, V;
  int asked = 0;
  float *one, *two, *rows;

  if (argc != 3) return 2;
  expect(ds4_load(NULL, NULL, &model) == DS4_INPUT, "no folder");
  expect(ds4_load(argv[1], NULL, NULL) == DS4_INPUT, "no place for the model");
  expect(ds4_load("no such folder", NULL, &model) == DS4_FILE && model == NULL, "another folder");
  expect(strncmp(ds4_error(), "ds4: no such folder/config.json: ", 33) == 0, "its line");
  options.backend = "abacus";
  expect(ds4_load(argv[1], &options, &model) == DS4_INPUT, "another backend");
  options = (ds4_options)DS4_OPTIONS;
  options.size = 3;
  expect(ds4_load(argv[1], &options, &model) == DS4_INPUT, "options of no version");
  options = (ds4_options)DS4_OPTIONS;
  options.threads = 2;
  expect(ds4_load(argv[1], &options, &model) == DS4_OK, "load");
  if (model == NULL) return 1;
  V = ds4_vocab_size(model);
  one = malloc(V * sizeof(float));
  two = malloc(V * sizeof(float));
  rows = malloc(5 * V * sizeof(float));
  if (one == NULL || two == NULL || rows == NULL) return 1;

  expect(ds4_new_state(NULL, 0, &state) == DS4_INPUT, "no model");
  expect(ds4_new_state(model, 8, &state) == DS4_OK, "new_state");
  expect(ds4_prefill(state, ids, 0, one, NULL) == DS4_INPUT, "no ids");
  expect(ds4_prefill(state, NULL, 3, one, NULL) == DS4_INPUT, "null ids");
  expect(ds4_prefill(state, ids, 4, NULL, NULL) == DS4_INPUT, "no room for logits");
  expect(ds4_prefill(state, &bad, 1, one, NULL) == DS4_INPUT, "an id outside the vocabulary");
  watch.user = &asked;
  watch.stop = stop_at_once;
  expect(ds4_prefill(state, ids, 4, one, &watch) == DS4_STOPPED && asked > 0, "stop");
  expect(ds4_position(state) == 0, "nothing is taken in");
  watch.stop = NULL;
  watch.user = &seen;
  watch.values = count_values;
  expect(ds4_prefill(state, ids, 4, one, &watch) == DS4_OK && seen == 4 * 192, "watch");
  expect(ds4_position(state) == 4, "position");

  expect(ds4_fork(state, &fork) == DS4_OK, "fork");
  expect(ds4_decode(state, 9, one) == DS4_OK, "decode");
  expect(ds4_decode(fork, 9, two) == DS4_OK && memcmp(one, two, V * sizeof(float)) == 0,
         "the fork goes on as the state does");
  expect(ds4_rollback(fork, 100) == DS4_INPUT, "further back than its limit");
  expect(ds4_rollback(fork, 1) == DS4_OK && ds4_position(fork) == 4, "rollback");
  expect(ds4_save(fork, ids, 4, argv[2]) == DS4_OK, "save");
  ds4_free_state(fork);
  fork = NULL;
  expect(ds4_restore(model, argv[2], &fork, restored, 2, &count) == DS4_OK && count == 4 &&
             restored[1] == 5 && restored[2] == 0,
         "restore");
  expect(ds4_decode(fork, 9, two) == DS4_OK && memcmp(one, two, V * sizeof(float)) == 0,
         "it goes on as before");

  batch[0].state = state;
  batch[0].ids = ids;
  batch[0].count = 2;
  batch[1] = batch[0];
  expect(ds4_forward(batch, 2, rows, NULL) == DS4_INPUT, "a state twice");
  batch[1].state = fork;
  batch[1].count = 3;
  expect(ds4_forward(batch, 2, rows, NULL) == DS4_OK, "forward");
  expect(ds4_forward(batch, 0, rows, NULL) == DS4_INPUT, "no sequence");

  expect(ds4_new_sampler(-1.0f, 1.0f, 0, 0, &sampler) == DS4_INPUT, "a negative temperature");
  expect(ds4_new_sampler(0.7f, 0.9f, 0, 1, &sampler) == DS4_OK, "new_sampler");
  expect(ds4_sample(sampler, one, V, &id) == DS4_OK && id >= 0 && (size_t)id < V, "sample");
  expect(ds4_sample(sampler, one, 0, &id) == DS4_INPUT, "no logits");
  expect(ds4_decode_with_drafts(state, id, sampler, ids, 4, &count) == DS4_INPUT,
         "a state without drafts");
  expect(ds4_load_tokenizer("no such folder", &tokenizer) == DS4_FILE, "no tokenizer");
  expect(ds4_encode(NULL, "a", 1, ids, 4, &count) == DS4_INPUT, "null tokenizer");

  free(rows);
  free(two);
  free(one);
  ds4_free_model(model); /* the states keep it alive */
  expect(ds4_position(state) == 7, "a state outlives its model's pointer");
  ds4_free_state(state);
  ds4_free_state(fork);
  ds4_free_state(NULL);
  ds4_free_sampler(sampler);
  ds4_free_tokenizer(NULL);
  ds4_free_model(NULL);
  return failures == 0 ? 0 : 1;
}
